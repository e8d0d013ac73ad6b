"""What a policy loses by responses that were drawn, and its critic beside it: GRPO (Shao et al. 2024, arXiv 2402.03300,
equation 3) and its kin, and PPO (Schulman et al. 2017, arXiv 1707.06347, equation 9, without the entropy bonus).
"""

from collections.abc import Iterable
from contextlib import AbstractContextManager
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from trainyard_api.rollout_stages import GrpoStage, PpoStage, RolloutStage

from ..data.batch import IGNORED, Batch
from ..engine import processes
from ..engine.criterion import Lost
from ..engine.log_probabilities import LogProbabilities, TokenLoss
from ..models.critic import values
from . import losses
from .rows import RolloutBatch


class Tokens(NamedTuple):
    """What is known of the tokens of responses, in whatever shape they are, the same for all."""

    advantages: Tensor
    shares: Tensor
    """What each counts in its response; 0 where there is none that counts."""
    rolled_out: Tensor
    reference: Tensor
    old: Tensor | None
    """None where the policy has not moved: they are what they are now."""


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
        old_BT = batch.old if self._stage.updates > 1 else None
        tokens = Tokens(batch.advantages, self._shares(batch), batch.rolled_out, batch.reference, old_BT)
        if self._of_whole_responses:
            log_probabilities_BT = self.log_probabilities(module, batch)
            losses_BT = self._losses(log_probabilities_BT, tokens, batch.counted)
            objective, log_probabilities_BT = losses_BT.sum(), log_probabilities_BT.detach()
        else:
            objective, found = self._log_probabilities.minimised(module, batch.as_read(), self._by_label(tokens, batch))
            log_probabilities_BT = batch.by_response(found[batch.is_read])
        with torch.no_grad():
            losses_B = self._losses(log_probabilities_BT, tokens, batch.counted).sum(1)
            shown = self._shown(log_probabilities_BT, tokens, batch)
        return Lost(objective, losses_B.view_as(batch.counts), _sums(shown))

    @property
    def _of_whole_responses(self) -> bool:
        """Whether what a token loses depends on others: on the first update their ratios are all 1."""
        stage = self._stage
        return isinstance(stage, GrpoStage) and stage.policy.ratio == "Response" and stage.updates > 1

    def _by_label(self, tokens: "Tokens", batch: RolloutBatch) -> TokenLoss:
        """What each label loses, where that is nothing of others."""
        of_labels = Tokens(*(None if each is None else each[batch.labels != IGNORED] for each in tokens))

        def loss(log_probabilities: Tensor, numbers: Tensor) -> Tensor:
            some = Tokens(*(None if each is None else each[numbers] for each in of_labels))
            return self._losses(log_probabilities, some, None)

        return loss

    def _losses(self, log_probabilities: Tensor, tokens: "Tokens", responses_BT: Tensor | None) -> Tensor:
        """Of tokens, so that their sum by the number of the update's responses is what is to be minimised. All have one shape;
        where `responses_BT` tells which are one response's, a ratio is a response's if the settings say so.
        """
        stage, policy = self._stage, self._stage.policy
        old = log_probabilities.detach() if tokens.old is None else tokens.old
        ratios = self._ratios(log_probabilities - old, responses_BT)
        losses_of = losses.clipped(ratios, tokens.advantages, policy.clip_low, policy.clip_high)
        if stage.importance_cap is not None:
            losses_of = losses_of * losses.importance(old, tokens.rolled_out, stage.importance_cap)
        if isinstance(stage, GrpoStage) and stage.policy.kl:
            losses_of = losses_of + stage.policy.kl * losses.divergence(log_probabilities - tokens.reference, "K3")
        return losses_of * tokens.shares

    def _ratios(self, log_ratios: Tensor, responses_BT: Tensor | None) -> Tensor:
        if responses_BT is not None and isinstance(self._stage, GrpoStage) and self._stage.policy.ratio == "Response":
            return losses.of_sequences(log_ratios * responses_BT, responses_BT)
        return torch.exp(log_ratios)

    def _shown(self, log_probabilities_BT: Tensor, tokens: "Tokens", batch: RolloutBatch) -> list[Tensor]:
        """Figures of each response, (B,)."""
        policy, counted_BT = self._stage.policy, batch.counted
        old_BT = log_probabilities_BT if tokens.old is None else tokens.old
        ratios_BT = self._ratios((log_probabilities_BT - old_BT) * counted_BT, counted_BT)
        clipped_BT = losses.is_clipped(ratios_BT, batch.advantages, policy.clip_low, policy.clip_high)
        return [
            *self._of_responses(batch, log_probabilities_BT),
            *([_mean(log_probabilities_BT - batch.reference, counted_BT)] if policy.kl else []),
            _mean(clipped_BT, counted_BT),
            _mean(ratios_BT, counted_BT),
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

    def _shares(self, batch: RolloutBatch) -> Tensor:
        """What each token counts in its response, (B, T), so that responses' mean is what the settings name."""
        counted_BT = batch.counted
        match self._stage.policy.average if isinstance(self._stage, GrpoStage) else "Token":
            case "Response":
                return counted_BT / counted_BT.sum(1, keepdim=True).clamp(min=1)
            case "Longest":
                return counted_BT / self._stage.rollout.max_new_tokens
        return counted_BT / self._tokens_of_a_response


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

    def __call__(self, module: nn.Module, batch: RolloutBatch) -> Lost:
        """With `value_error`, half the square."""
        lost = super().__call__(module, batch)
        if not self._model.training:
            return lost
        values_BT = self.values(self._model, batch)
        errors_BT = losses.value_error(values_BT, batch.values, batch.returns, self._critic.value_clip)
        weighted_B = self._critic.value_weight * (errors_BT * self._shares(batch)).sum(1)
        shown = torch.cat((lost.figures, _sums([_mean(errors_BT.detach(), batch.counted)])))
        return Lost(lost.objective + weighted_B.sum(), lost.losses + weighted_B.detach().view_as(batch.counts), shown)


def _mean(values_BT: Tensor, counted_BT: Tensor) -> Tensor:
    """Over a response's tokens, (B,)."""
    return (values_BT * counted_BT).sum(1) / counted_BT.sum(1).clamp(min=1)


def _sums(shown: list[Tensor]) -> Tensor:
    """Of figures (B,) each, over responses."""
    return torch.stack([each.sum(dtype=torch.float64) for each in shown])
