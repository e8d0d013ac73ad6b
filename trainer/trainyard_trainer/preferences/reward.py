"""What a reward model loses by the scores that it gives to pairs of responses."""

from collections.abc import Iterable
from typing import ClassVar

import torch
from torch import Tensor, nn

from ..data.batch import Batch
from ..data.objectives.rewards import ScoredPairs
from ..engine.criterion import Lost
from . import losses
from .figures import FIGURES, figures


class RewardLoss:
    """Bradley and Terry's, the mean over the model's heads: each learns by itself."""

    FIGURES: ClassVar[tuple[str, ...]] = FIGURES
    HELD_OUT_FIGURES: ClassVar[tuple[str, ...]] = FIGURES

    def __init__(self, centring: float) -> None:
        """`centring` pulls the sum of a pair's scores to 0."""
        self._centring = centring

    def look_ahead(self, module: nn.Module, batches: Iterable[tuple[Batch, bool]]) -> None:
        """Nothing has to be known."""

    def leave_out_of_compiling(self) -> None:
        """Nothing is."""

    def __call__(self, module: nn.Module, batch: ScoredPairs) -> Lost:
        """A pair is a label."""
        chosen_PH, rejected_PH = scores(module, batch).unbind(1)
        losses_P = losses.bradley_terry(chosen_PH, rejected_PH, batch.margins[:, None], self._centring).mean(1)
        return Lost(
            losses_P.sum(),
            batch.by_row(losses_P.detach()),
            figures(chosen_PH.detach().mean(1), rejected_PH.detach().mean(1)),
        )


def scores(module: nn.Module, batch: ScoredPairs) -> Tensor:
    """Of both responses of each pair by each head, (P, 2, H) in fp32."""
    scores_NH: Tensor = module(**batch.inputs, ends=batch.ends)
    return torch.stack((scores_NH[0::2], scores_NH[1::2]), 1).float()
