"""What of a global batch is a rank's: some of its rows, and where ranks share sequences, a part of each.

Ranks that share sequences or layers work on the same rows; they follow one another, so that they are on one node where that is
possible.
"""

from dataclasses import dataclass

from trainyard_api.training_stages import TrainingStage

from ..data.batch import Batch
from ..errors import PermanentError, setting
from ..group import Group

WHOLE_POSITIONS = "whole_position_ids"
"""The model's argument that tells the positions of whole rows, (B, T), where a rank has a part of them."""


@dataclass(frozen=True)
class Place:
    """Of a rank, in its stage."""

    share: int
    """Which of the equal shares of its rows."""
    shares: int
    """How many shares there are."""
    part: int
    """Which of the parts of each row."""
    parts: int

    @classmethod
    def of(cls, stage: TrainingStage, group: Group) -> "Place":
        """PermanentError if ranks can't be shared out so."""
        same, parts = stage.sharers, stage.sequence_parallel
        if group.world_size % same:
            field = setting("sequenceParallel" if parts > 1 else "tensorParallel")
            raise PermanentError(f"{field}: {same} does not divide the {group.world_size} ranks; use a divisor of that")
        return cls(group.rank // same, group.world_size // same, group.rank % parts, parts)

    def own(self, batch: Batch) -> Batch:
        """This rank's part of rows, (B, T) each."""
        if self.parts == 1:
            return batch
        width = batch.labels.shape[1] // self.parts
        inputs = {name: each.narrow(1, self.part * width, width) for name, each in batch.inputs.items()}
        inputs[WHOLE_POSITIONS] = batch.inputs["position_ids"]
        return Batch(inputs, batch.labels.narrow(1, self.part * width, width))
