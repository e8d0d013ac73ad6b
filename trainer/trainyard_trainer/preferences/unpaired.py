"""What a policy loses by single responses that are good or not: KTO (Ethayarajh et al. 2024, section 4.1)."""

from collections.abc import Iterable
from typing import ClassVar

import torch
from torch import nn

from ..data.batch import Batch
from ..data.objectives.unpaired import UnpairedBatch
from ..engine import processes
from ..engine.criterion import Lost
from . import losses
from .objective import PreferenceLoss


class UnpairedLoss(PreferenceLoss):
    """A response is a label.

    The reference point is the policy's divergence from the reference, at least 0, as responses to other prompts tell it: all
    those of the global batch, whatever rank and micro-batch they are in, or all that a validation is of.
    """

    FIGURES: ClassVar[tuple[str, ...]] = ("accuracy", "reward", "reference_point")
    HELD_OUT_FIGURES: ClassVar[tuple[str, ...]] = FIGURES

    _point = 0.0

    def look_ahead(self, module: nn.Module, batches: Iterable[tuple[Batch, bool]]) -> None:
        """Work out the reference point. A collective."""
        total, number = 0.0, 0
        with torch.no_grad():
            for batch, counts in batches:
                assert isinstance(batch, UnpairedBatch)
                ratios = self.ratios(*self.of_responses(module, batch), batch)[1::2]
                if counts:
                    total, number = total + float(ratios.sum(dtype=torch.float64)), number + len(ratios)
        total, number_of_all = processes.add_up(total, number)
        self._point = max(0.0, total / max(1.0, number_of_all))

    def __call__(self, module: nn.Module, batch: UnpairedBatch) -> Lost:  # type: ignore[override]
        """`accuracy` is the share of responses that are on their side of the reference point."""
        own_P = self.ratios(*self.of_responses(module, batch), batch)[0::2]
        point = torch.full((), self._point, dtype=own_P.dtype, device=own_P.device)
        weights_P = torch.where(batch.desirable, self._settings.desirable_weight, self._settings.undesirable_weight)
        losses_P = losses.kto(own_P, batch.desirable, point, self._settings.beta, weights_P)
        beyond_P = own_P.detach() - point
        right_P = (torch.where(batch.desirable, beyond_P, -beyond_P).sign() + 1) / 2
        figures = torch.stack((right_P, self._settings.beta * own_P.detach(), point.expand_as(own_P)))
        return Lost(losses_P.sum(), batch.by_row(losses_P.detach()), figures.sum(1, dtype=torch.float64))
