"""What a stage minimises, as the engine knows it: from a batch to a number, whatever a label is (a token, a pair, …)."""

from collections.abc import Iterable
from typing import ClassVar, NamedTuple, Protocol

from torch import Tensor, nn

from ..data.batch import Batch


class Lost(NamedTuple):
    """What a batch costs."""

    objective: Tensor
    """What to minimise, summed over labels."""
    losses: Tensor
    """The losses of each row, which add up to its labels' (B, any), without gradients."""
    figures: Tensor
    """What else is shown of a batch, summed over labels, as `FIGURES` names it (F,), without gradients."""


class Criterion(Protocol):
    """Of a model that it was made for."""

    FIGURES: ClassVar[tuple[str, ...]]
    """The names of what is shown beside the loss, each a mean over the labels of a global batch."""
    HELD_OUT_FIGURES: ClassVar[tuple[str, ...]]
    """The first of these: those that are shown of held-out rows, too."""

    def look_ahead(self, module: nn.Module, batches: Iterable[tuple[Batch, bool]]) -> None:
        """See to what has to be known of all of this rank's batches before any of them is measured: those of a global batch, or
        of a validation. Some may not count, and are there for all ranks to have equally many. May be a collective.
        """

    def leave_out_of_compiling(self) -> None:
        """Keep torch.compile from what gains nothing of it."""

    def __call__(self, module: nn.Module, batch: Batch) -> Lost:
        """`module` is the model, or what DeepSpeed has wrapped it in."""
