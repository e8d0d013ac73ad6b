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

    def look_ahead(self, module: nn.Module, batches: Iterable[Batch]) -> None:
        """See to what has to be known of this rank's share of a global batch before its gradients. May be a collective."""

    def leave_out_of_compiling(self) -> None:
        """Keep torch.compile from what gains nothing of it."""

    def __call__(self, module: nn.Module, batch: Batch) -> Lost:
        """`module` is the model, or what DeepSpeed has wrapped it in."""
