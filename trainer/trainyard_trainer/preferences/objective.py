"""What a policy loses by its preferences among a batch's pairs."""

from collections.abc import Iterable
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from trainyard_api.preference_settings import PreferenceSettings

from ..data.batch import Batch
from ..data.objectives.preferences import NOBODY, PairBatch
from ..engine.criterion import Lost
from ..engine.log_probabilities import LogProbabilities
from . import losses
from .figures import FIGURES, figures


class PreferenceLoss:
    """Of a model, whose forward gives log-probabilities of labels from now on."""

    FIGURES: ClassVar[tuple[str, ...]] = FIGURES
    HELD_OUT_FIGURES: ClassVar[tuple[str, ...]] = FIGURES

    def __init__(self, model: Any, settings: PreferenceSettings) -> None:
        self._log_probabilities = LogProbabilities(model)
        self._settings = settings

    def look_ahead(self, module: nn.Module, batches: Iterable[tuple[Batch, bool]]) -> None:
        """Nothing has to be known."""

    def leave_out_of_compiling(self) -> None:
        """The head, that is."""
        self._log_probabilities.leave_out_of_compiling()

    def __call__(self, module: nn.Module, batch: PairBatch) -> Lost:
        """A pair is a label. A response's reward is β times its log-probability over the reference's (Rafailov et al. 2023,
        equation 5, without what all responses to a prompt share).
        """
        summed, tokens = self.of_responses(module, batch)
        ratios = self.ratios(summed, tokens, batch)
        losses_P = self.of_margins(ratios[0::2] - ratios[1::2])
        if weight := self._settings.sft_weight:
            losses_P = losses_P - weight * summed[0::2] / tokens[0::2]
        rewards = self._settings.beta * ratios.detach()
        return Lost(losses_P.sum(), batch.by_row(losses_P.detach()), figures(rewards[0::2], rewards[1::2]))

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

    def ratios(self, summed: Tensor, tokens: Tensor, batch: PairBatch) -> Tensor:
        """The policy's log-probability of each response over the reference's, (2P,); if asked for, of a token in the mean."""
        ratios = summed - batch.reference
        return ratios / tokens if self._settings.normalises else ratios

    def of_responses(self, module: nn.Module, batch: PairBatch) -> tuple[Tensor, Tensor]:
        """Log-probability of each response, and its tokens, (2P,)."""
        labelled_BT = batch.responses != NOBODY
        of_labels = self._log_probabilities(module, batch)[labelled_BT]
        responses = batch.responses[labelled_BT]
        none = torch.zeros(2 * batch.num_labels, dtype=of_labels.dtype, device=of_labels.device)
        summed = none.index_add(0, responses, of_labels)
        return summed, torch.bincount(responses, minlength=len(none)).to(summed.dtype)
