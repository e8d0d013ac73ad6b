"""What a policy loses by responses that were drawn, and its critic beside it: GRPO (Shao et al. 2024, arXiv 2402.03300,
equation 3) and its kin, and PPO (Schulman et al. 2017, arXiv 1707.06347, equation 9, without the entropy bonus).
"""

from collections.abc import Iterable
from contextlib import AbstractContextManager
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from trainyard_api.rollout_stages import GrpoStage, PpoStage, RolloutStage

from ..data.batch import Batch
from ..engine import processes
from ..engine.criterion import Lost
from ..engine.log_probabilities import LogProbabilities
from ..models.critic import values
from . import losses
from .rows import RolloutBatch


class PolicyLoss:
    """Of a model, whose forward gives log-probabilities of labels from now on. A label is a response.

    While training; what is measured besides is what responses were given: a held-out loss is the mean reward, negative.
    """

    HELD_OUT_FIGURES: ClassVar[tuple[str, ...]] = ("reward", "response_tokens", "truncated", "informative", "entropy")
    FIGURES: ClassVar[tuple[str, ...]] = (*HELD_OUT_FIGURES, "kl", "clipped", "ratio", "mismatch")
    _tokens_of_a_response = 1.0

    def __init__(self, model: Any, stage: RolloutStage) -> None:
        self.FIGURES = tuple(name for name in type(self).FIGURES if name != "kl" or stage.policy.kl)  # type: ignore[misc]
        self._log_probabilities = LogProbabilities(model, stage.rollout.temperature)
        self._model, self._stage = model, stage

    def look_ahead(self, module: nn.Module, batches: Iterable[tuple[Batch, bool]]) -> None:
        """How many tokens a response has in the mean of the update. A collective."""
        if not self._model.training:
            return
        tokens = responses = 0
        for batch, counts in batches:
            assert isinstance(batch, RolloutBatch)
            if counts:
                tokens += int(batch.counted.sum())
                responses += batch.num_labels
        all_tokens, all_responses = processes.add_up(tokens, responses)
        self._tokens_of_a_response = all_tokens / max(1.0, all_responses) or 1.0

    def leave_out_of_compiling(self) -> None:
        """The head, that is."""
        self._log_probabilities.leave_out_of_compiling()

    def writing(self) -> AbstractContextManager[None]:
        """The model's forward gives logits meanwhile."""
        return self._log_probabilities.left_out()

    def log_probabilities(self, module: nn.Module, batch: RolloutBatch) -> Tensor:
        """Of each label, (B, T)."""
        return batch.by_response(self._log_probabilities(module, batch.as_read())[batch.is_read])

    def __call__(self, module: nn.Module, batch: RolloutBatch) -> Lost:
        """Figures are of responses, or means over a response's tokens: `informative` whether others to its prompt have another
        reward, `entropy` as the tokens that were drawn tell it (−log π), `kl` log π − log π of the reference, where
        there is one, `clipped` whether the bound holds a token's ratio, `mismatch` |log π(training) − log π(drawing)| of the
        policy that has drawn.
        """
        if not self._model.training:
            losses_PG = -batch.rewards
            return Lost(losses_PG.sum(), losses_PG, _sums(self._of_responses(batch, batch.rolled_out)))
        losses_B, shown = self._losses(self.log_probabilities(module, batch), batch)
        return Lost(losses_B.sum(), losses_B.detach().view_as(batch.counts), _sums(shown))

    def _losses(self, log_probabilities_BT: Tensor, batch: RolloutBatch) -> tuple[Tensor, list[Tensor]]:
        """Of responses, and figures of each, (B,)."""
        stage, policy, counted_BT = self._stage, self._stage.policy, batch.counted
        now_BT = log_probabilities_BT.detach()
        old_BT = now_BT if stage.updates == 1 else batch.old
        log_ratios_BT = (log_probabilities_BT - old_BT) * counted_BT
        ratios_BT = torch.exp(log_ratios_BT)
        if isinstance(stage, GrpoStage) and stage.policy.ratio == "Response":
            ratios_BT = losses.of_sequences(log_ratios_BT, counted_BT)
        losses_BT = losses.clipped(ratios_BT, batch.advantages, policy.clip_low, policy.clip_high)
        if stage.importance_cap is not None:
            losses_BT = losses_BT * losses.importance(old_BT, batch.rolled_out, stage.importance_cap)
        if isinstance(stage, GrpoStage) and stage.policy.kl:
            divergences_BT = losses.divergence(log_probabilities_BT - batch.reference, "K3")
            losses_BT = losses_BT + stage.policy.kl * divergences_BT
        clipped_BT = losses.is_clipped(ratios_BT.detach(), batch.advantages, policy.clip_low, policy.clip_high)
        return self._summed(losses_BT, counted_BT), [
            *self._of_responses(batch, now_BT),
            *([_mean(now_BT - batch.reference, counted_BT)] if policy.kl else []),
            _mean(clipped_BT, counted_BT),
            _mean(ratios_BT.detach(), counted_BT),
            _mean((old_BT - batch.rolled_out).abs(), counted_BT),
        ]

    def _of_responses(self, batch: RolloutBatch, log_probabilities_BT: Tensor) -> list[Tensor]:
        """What is shown of each, held out too."""
        rewards_PG, counts_PG = batch.rewards, batch.counts
        highest_P1 = rewards_PG.masked_fill(~counts_PG, -torch.inf).max(1, keepdim=True).values
        lowest_P1 = rewards_PG.masked_fill(~counts_PG, torch.inf).min(1, keepdim=True).values
        return [
            rewards_PG.flatten(),
            batch.counted.sum(1),
            (batch.truncated & counts_PG).flatten(),
            ((highest_P1 > lowest_P1) & counts_PG).flatten(),
            _mean(-log_probabilities_BT, batch.counted),
        ]

    def _summed(self, losses_BT: Tensor, counted_BT: Tensor) -> Tensor:
        """Of responses, by what the settings name, so that their mean over the update's responses is that."""
        return (losses_BT * counted_BT).sum(1) / self._tokens(counted_BT.sum(1))

    def _tokens(self, tokens_B: Tensor) -> Tensor | float:
        """What a response's sum over tokens is divided by, so that responses' mean is what the settings name."""
        match self._stage.policy.average if isinstance(self._stage, GrpoStage) else "Token":
            case "Response":
                return tokens_B.clamp(min=1)
            case "Longest":
                return float(self._stage.rollout.max_new_tokens)
        return self._tokens_of_a_response


class ActorCriticLoss(PolicyLoss):
    """With the error of the critic's values, which are a part of the model."""

    FIGURES: ClassVar[tuple[str, ...]] = (*PolicyLoss.FIGURES, "value_error")

    def __init__(self, model: Any, stage: PpoStage) -> None:
        super().__init__(model, stage)
        self._critic = stage.policy

    def values(self, module: nn.Module, batch: RolloutBatch) -> Tensor:
        """The critic's, (B, T), before each token."""
        ends_N = batch.is_read.flatten().nonzero().flatten()
        return batch.by_response(values(self._model, batch.inputs, ends_N))

    def _losses(self, log_probabilities_BT: Tensor, batch: RolloutBatch) -> tuple[Tensor, list[Tensor]]:
        losses_B, shown = super()._losses(log_probabilities_BT, batch)
        values_BT = self.values(self._model, batch)
        errors_BT = losses.value_error(values_BT, batch.values, batch.returns, self._critic.value_clip)
        weighted_B = self._critic.value_weight * self._summed(errors_BT, batch.counted)
        return losses_B + weighted_B, [*shown, _mean(errors_BT.detach(), batch.counted)]


def _mean(values_BT: Tensor, counted_BT: Tensor) -> Tensor:
    """Over a response's tokens, (B,)."""
    return (values_BT * counted_BT).sum(1) / counted_BT.sum(1).clamp(min=1)


def _sums(shown: list[Tensor]) -> Tensor:
    """Of figures (B,) each, over responses."""
    return torch.stack([each.sum(dtype=torch.float64) for each in shown])
