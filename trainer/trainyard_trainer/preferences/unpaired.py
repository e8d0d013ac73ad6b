"""What a policy loses by single responses that are good or not: KTO (Ethayarajh et al. 2024, section 4.1)."""

from collections.abc import Iterable
from typing import ClassVar

import torch
from torch import Tensor, nn

from ..data.batch import Batch
from ..data.objectives.unpaired import UnpairedBatch
from ..engine import processes
from ..engine.criterion import Lost
from . import losses
from .objective import PreferenceLoss


class UnpairedLoss(PreferenceLoss):
    """A response is a label.

    The reference point is the policy's divergence from the reference, at least 0, as responses to other prompts tell it: in
    training all those of the global batch, whatever rank and micro-batch they are in; held out those of each row.
    """

    FIGURES: ClassVar[tuple[str, ...]] = ("accuracy", "reward", "reference_point")

    _point: Tensor | None = None

    def look_ahead(self, module: nn.Module, batches: Iterable[Batch]) -> None:
        """Work out the reference point of a global batch. A collective."""
        total, number = 0.0, 0
        with torch.no_grad():
            for batch in batches:
                assert isinstance(batch, UnpairedBatch)
                ratios = self.ratios(module, batch)[1::2]
                total, number = total + float(ratios.sum(dtype=torch.float64)), number + len(ratios)
        total, number_of_all = processes.add_up(total, number)
        self._point = torch.tensor(max(0.0, total / max(1.0, number_of_all)))

    def __call__(self, module: nn.Module, batch: UnpairedBatch) -> Lost:  # type: ignore[override]
        """`accuracy` is the share of responses that are on their side of the reference point."""
        ratios = self.ratios(module, batch)
        own_P, others_P = ratios[0::2], ratios[1::2].detach()
        point_P = self._points(batch, others_P) if not torch.is_grad_enabled() or self._point is None else self._point
        weights_P = torch.where(batch.desirable, self._settings.desirable_weight, self._settings.undesirable_weight)
        losses_P = losses.kto(own_P, batch.desirable, point_P.to(own_P), self._settings.beta, weights_P)
        beyond_P = own_P.detach() - point_P.to(own_P)
        right_P = (torch.where(batch.desirable, beyond_P, -beyond_P).sign() + 1) / 2
        figures = torch.stack((right_P, self._settings.beta * own_P.detach(), point_P.to(own_P).expand_as(own_P)))
        return Lost(losses_P.sum(), batch.by_row(losses_P.detach()), figures.sum(1, dtype=torch.float64))

    def _points(self, batch: UnpairedBatch, others_P: Tensor) -> Tensor:
        """Each response's row's reference point."""
        sums_B, ones_B = batch.by_row(others_P)[:, 0], batch.by_row(torch.ones_like(others_P))[:, 0]
        return (sums_B / ones_B).clamp(min=0)[batch.rows_of_pairs]
