"""What a policy loses by the responses that it has drawn: GRPO (Shao et al. 2024, arXiv 2402.03300, equation 3, without its
divergence), of one update a step.

Ratios are to the policy that has drawn, which is this one: they are 1, and their gradient is that of log-probabilities.
"""

from collections.abc import Iterable
from contextlib import AbstractContextManager
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from trainyard_api.training_stages import GrpoStage

from ..data.batch import IGNORED, Batch
from ..engine import processes
from ..engine.criterion import Lost
from ..engine.log_probabilities import LogProbabilities
from .rollouts import RolloutBatch


class PolicyLoss:
    """Of a model, whose forward gives log-probabilities of labels from now on. A label is a response."""

    FIGURES: ClassVar[tuple[str, ...]] = ("reward", "response_tokens", "truncated", "entropy")

    _tokens_of_a_response = 1.0

    def __init__(self, model: Any, stage: GrpoStage) -> None:
        self._log_probabilities = LogProbabilities(model, stage.rollout.temperature)
        self._stage = stage

    def look_ahead(self, module: nn.Module, batches: Iterable[tuple[Batch, bool]]) -> None:
        """How many tokens a response has in the mean of the global batch. A collective."""
        tokens = responses = 0
        for batch, counts in batches:
            assert isinstance(batch, RolloutBatch)
            if counts:
                tokens += int((batch.labels[batch.counts.flatten()] != IGNORED).sum())
                responses += batch.num_labels
        all_tokens, all_responses = processes.add_up(tokens, responses)
        self._tokens_of_a_response = all_tokens / max(1.0, all_responses) or 1.0

    def leave_out_of_compiling(self) -> None:
        """The head, that is."""
        self._log_probabilities.leave_out_of_compiling()

    def writing(self) -> AbstractContextManager[None]:
        """The model's forward gives logits meanwhile."""
        return self._log_probabilities.left_out()

    def __call__(self, module: nn.Module, batch: RolloutBatch) -> Lost:
        """`entropy` is of tokens, as those that were drawn tell it: −log π in the mean."""
        log_probabilities_BT = self._log_probabilities(module, batch)
        counts_B, advantages_B = batch.counts.flatten(), batch.advantages.flatten()
        counted_BT = (batch.labels != IGNORED) & counts_B[:, None]
        tokens_B = counted_BT.sum(1)
        ratios_BT = torch.exp(log_probabilities_BT - log_probabilities_BT.detach())
        sums_B = (-advantages_B[:, None] * ratios_BT * counted_BT).sum(1)
        losses_B = sums_B / self._tokens(tokens_B)
        surprise_B = -(log_probabilities_BT.detach() * counted_BT).sum(1) / tokens_B.clamp(min=1)
        truncated_B = batch.truncated.flatten() & counts_B
        figures = torch.stack((batch.rewards.flatten(), tokens_B, truncated_B, surprise_B))
        return Lost(losses_B.sum(), losses_B.detach().view_as(batch.counts), figures.sum(1, dtype=torch.float64))

    def _tokens(self, tokens_B: Tensor) -> Tensor | float:
        """What a response's sum over tokens is divided by, so that responses' mean is what the settings name."""
        match self._stage.policy.average:
            case "Token":
                return self._tokens_of_a_response
            case "Response":
                return tokens_B.clamp(min=1)
            case "Longest":
                return float(self._stage.rollout.max_new_tokens)
