"""Stages that learn from rewards of the model's own responses."""

from typing import Annotated, ClassVar

from pydantic import Field

from .model import rule
from .objectives import TrainedOn
from .reward_settings import (
    GROUP_RULES,
    ROLLOUT_RULES,
    CriticPolicySettings,
    GroupPolicySettings,
    PolicySettings,
    RewardSettings,
    RolloutSettings,
    SingleRolloutSettings,
)
from .training_stages import OF_PAIRS, WHOLE_SEQUENCES, SftStage, TrainingStage

_CAP = 2.0


class RolloutStage(TrainingStage):
    """Learn from rewards of the model's own responses."""

    objective: ClassVar[TrainedOn] = "Rollouts"
    rewards: Annotated[list[RewardSettings], Field(min_length=1, max_length=8)]
    """Who says how good a response is."""
    rollout: RolloutSettings = RolloutSettings()
    policy: PolicySettings = PolicySettings()

    rules: ClassVar = (
        *SftStage.rules,
        OF_PAIRS,
        WHOLE_SEQUENCES,
        rule("!self.compile", lambda it: not it.compile, "responses have all lengths; leave it out", "compile"),
    )

    @property
    def rows(self) -> int:
        """Responses to a prompt."""
        return self.rollout.responses

    @property
    def drawing_workers(self) -> int:
        """Workers that draw and don't learn."""
        return self.rollout.workers

    @property
    def importance_cap(self) -> float | None:
        """Of the weights of tokens, None where they have none."""
        return self.policy.importance_cap or (_CAP if self.rollout.overlap else None)

    @property
    def mini_batches(self) -> int:
        """Parts of a global batch that an update is made with each."""
        return self.policy.mini_batches

    @property
    def updates(self) -> int:
        """Of the weights, in a step."""
        return self.policy.epochs * self.policy.mini_batches


class GrpoStage(RolloutStage):
    """Learn from rewards of the model's own responses, each compared with others to the same prompt. `globalBatch` and
    `microBatch` count prompts.
    """

    kind: ClassVar[str] = "grpo"
    policy: GroupPolicySettings = GroupPolicySettings()

    rules: ClassVar = (*RolloutStage.rules, *GROUP_RULES)


class PpoStage(RolloutStage):
    """Learn from rewards of the model's own responses, each token compared with what a critic expected, which learns beside.
    `globalBatch` and `microBatch` count prompts.
    """

    kind: ClassVar[str] = "ppo"
    rollout: SingleRolloutSettings = SingleRolloutSettings()
    policy: CriticPolicySettings = CriticPolicySettings()

    rules: ClassVar = (
        *RolloutStage.rules,
        *ROLLOUT_RULES,
        rule(
            "!has(self.model.lora)",
            lambda it: it.model.lora is None,
            "the critic has no adapters; leave it out, or use grpo",
            "model.lora",
        ),
        rule(
            "!has(self.policy.klTarget) || self.policy.kl > 0.0",
            lambda it: it.policy.kl_target is None or it.policy.kl > 0,
            "is reached from a cost that is more than 0; set policy.kl, or leave it out",
            "policy.klTarget",
        ),
    )
