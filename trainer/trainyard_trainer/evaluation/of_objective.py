"""How well a model does on a whole split at what it was trained for: masked tokens, corrupted spans, targets of pairs.

In rows as in training; masks are drawn from the run's seed and the row's number, so models measured under one seed are measured
on the same ones.
"""

from pathlib import Path

from trainyard_api.objectives import CONVERSING

from ..checkpoint.trained import TrainedModel
from ..data.batch import Batch
from ..data.objectives.choose import completed, objective_of
from ..data.objectives.objective import Sample
from ..data.special_tokens import special_tokens

NAMES = {
    "MaskedLM": "masked_lm_loss",
    "SpanCorruption": "span_corruption_loss",
    "SequenceToSequence": "sequence_to_sequence_loss",
    "Responses": "response_loss",
    "Preferences": "response_loss",  # of those that were chosen
    "Unpaired": "response_loss",
    "Rollouts": "response_loss",
}
"""The metric of each objective: nats per label."""


class RowsOfObjective:
    """A split's rows, by number."""

    def __init__(self, trained: TrainedModel, split: Path, length: int, seed: int) -> None:
        config = trained.model.config
        tokens, _ = completed(special_tokens(trained.tokenizer), config.model_type, trained.sequence_length)
        name = "Responses" if trained.objective in CONVERSING else trained.objective
        self._objective = objective_of(name, config, tokens, length, seed)
        self.rows = self._objective.open(split)

    def __len__(self) -> int:
        return len(self.rows)

    def batch(self, numbers: range) -> Batch:
        """The rows of these numbers."""
        return self._objective.batch([Sample(self.rows, number, number) for number in numbers])
