"""What a model reads at once, and what it should say: all that the engine knows of data and objectives.

`inputs` are the arguments of the model's own forward, whatever its family: a decoder's input_ids and position_ids, an encoder-
decoder's decoder_input_ids, segment_ids where models are told of documents by these. `labels` lie where the logits lie, shifted
already, so the loss of any objective is one sum over the labels that count. Losses are normalised by their number over the
global batch, never by that of positions.
"""

from dataclasses import dataclass, fields, replace
from typing import Self

import torch
from torch import Tensor

IGNORED = -100
"""The label of a position that doesn't count, as torch's cross_entropy has it."""


PADDING = -1
"""The segment of positions that no document has: they see each other, so that none sees nothing."""


@dataclass(frozen=True)
class Batch:
    """B rows for one forward pass."""

    inputs: dict[str, Tensor]
    """By argument of the model's forward; the first dimension of each is B."""
    labels: Tensor
    """int64 (B, T): the token wanted at each position of the logits, IGNORED where none is."""

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def num_labels(self) -> int:
        """Labels that count."""
        return int((self.labels != IGNORED).sum())

    def labels_of_rows(self) -> Tensor:
        """Labels that count, by row."""
        return (self.labels != IGNORED).sum(1)

    def to(self, device: torch.device) -> Self:
        """The same on a device."""
        tensors = {each.name: getattr(self, each.name).to(device) for each in fields(self) if each.name != "inputs"}
        return replace(self, inputs={name: each.to(device) for name, each in self.inputs.items()}, **tensors)
