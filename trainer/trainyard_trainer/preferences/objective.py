"""What a policy loses by its preferences among a batch's pairs."""

from typing import Any

import torch
from torch import Tensor, nn
from trainyard_api.preference_settings import PreferenceSettings

from ..data.objectives.preferences import NOBODY, PairBatch
from ..engine.log_probabilities import LogProbabilities
from . import losses


class PreferenceLoss:
    """Of a model, whose forward gives log-probabilities of labels from now on."""

    def __init__(self, model: Any, settings: PreferenceSettings) -> None:
        self._log_probabilities = LogProbabilities(model)
        self._settings = settings

    def leave_out_of_compiling(self) -> None:
        """The head, that is."""
        self._log_probabilities.leave_out_of_compiling()

    def __call__(self, module: nn.Module, batch: PairBatch) -> tuple[Tensor, Tensor]:
        """What to minimise, summed over pairs, and the losses of each row's pairs in sum, (B, 1)."""
        margins_P = self.margins(module, batch)
        losses_P = self.of_margins(margins_P)
        by_row_B1 = torch.zeros(len(batch), dtype=losses_P.dtype, device=losses_P.device)
        by_row_B1 = by_row_B1.index_add(0, batch.rows_of_pairs, losses_P.detach())[:, None]
        return losses_P.sum(), by_row_B1

    def of_margins(self, margins_P: Tensor) -> Tensor:
        """The loss that the settings name, of each pair."""
        beta, smoothing = self._settings.beta, self._settings.label_smoothing
        match self._settings.loss:
            case "Sigmoid":
                return losses.sigmoid(margins_P, beta, smoothing)
            case "Robust":
                return losses.robust(margins_P, beta, smoothing)
            case "Hinge":
                return losses.hinge(margins_P, beta)
            case "IPO":
                return losses.ipo(margins_P, beta)

    def margins(self, module: nn.Module, batch: PairBatch) -> Tensor:
        """By how much more the policy prefers what was chosen than the reference does, (P,)."""
        summed, tokens = self.of_responses(module, batch)
        ratios = summed - batch.reference
        if self._settings.normalises:
            ratios = ratios / tokens
        return ratios[0::2] - ratios[1::2]

    def of_responses(self, module: nn.Module, batch: PairBatch) -> tuple[Tensor, Tensor]:
        """Log-probability of each response, and its tokens, (2P,)."""
        labelled_BT = batch.responses != NOBODY
        of_labels = self._log_probabilities(module, batch)[labelled_BT]
        responses = batch.responses[labelled_BT]
        none = torch.zeros(2 * batch.num_labels, dtype=of_labels.dtype, device=of_labels.device)
        summed = none.index_add(0, responses, of_labels)
        return summed, torch.bincount(responses, minlength=len(none)).to(summed.dtype)
