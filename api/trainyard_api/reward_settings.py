"""What a user may say of learning from rewards: who gives them, how responses are drawn, and what is minimised."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field, StringConstraints

from .fields import StageName
from .model import Model, rule

FunctionName = Annotated[str, StringConstraints(pattern=r"^.+:[A-Za-z_][A-Za-z0-9_]*$", max_length=1024)]


class RewardSettings(Model):
    """Who says how good a response is: a function of the user's, which runs in a process of its own beside each rank, or an
    earlier reward stage's model.
    """

    function: FunctionName | None = None
    """`path/to/file.py:function`, where relative paths start at the storage root, or `module:function`. It is called with lists
    `prompts`, `completions` and `answers`, and gives a list of as many numbers: docs/stages.md.
    """
    stage: StageName | None = None
    """An earlier reward stage."""
    weight: Annotated[float, Field(ge=-1000, le=1000)] = 1.0
    """A response's reward is the sum of what all give, each so many times."""
    timeout_seconds: Annotated[float, Field(gt=0, le=86_400)] = 60.0
    """For a call of a function. If it takes longer its process is killed, and those responses are left out."""

    rules: ClassVar = (
        rule(
            "has(self.function) != has(self.stage)",
            lambda it: (it.function is None) != (it.stage is None),
            "give exactly one of function and stage",
        ),
    )


class EnvironmentSettings(Model):
    """Who answers what the model says, so that it speaks again: games, tools, checks that let it try once more."""

    function: FunctionName
    """As of rewards. It is called with lists `prompts`, `turns` (the texts that the model and it have said in turns, the model
    first and last) and `answers`, and gives a list of one text each, or None where all is said: docs/stages.md.
    """
    turns: Annotated[int, Field(ge=2, le=64)] = 4
    """Times that the model speaks, at most."""
    timeout_seconds: Annotated[float, Field(gt=0, le=86_400)] = 60.0
    """For a call. If it takes longer its process is killed, and those responses are left out."""


class RolloutSettings(Model):
    """The responses that the model draws in each step, to learn from."""

    responses: Annotated[int, Field(ge=1, le=1024)] = 8
    """To each prompt: its group."""
    max_new_tokens: Annotated[int, Field(ge=1, le=1_048_576)] = 64
    """Tokens of a response, at most; with an environment, of all that both say in it."""
    environment: EnvironmentSettings | None = None
    """Who answers what the model says."""
    temperature: Annotated[float, Field(gt=0, le=10)] = 1.0
    """Of drawing, and so of the probabilities that are learned."""
    truncated_reward: Annotated[float, Field(ge=-1000, le=1000)] | None = None
    """What a response is given instead of its reward that was cut off at maxNewTokens, before it said its end."""
    workers: Annotated[int, Field(ge=0, le=10_000)] = 0
    """So many of the stage's workers, the last ones, draw and reward, over Ray, and the others learn. With 0 those that learn
    draw as well, and neither ever waits for the other.
    """
    engine: Literal["Transformers", "VLLM"] = "Transformers"
    """What they draw with: transformers' model, on any device; or vLLM (trainyard[vllm]), for GPUs. What vLLM draws again may
    be another response.
    """
    overlap: bool = False
    """Draw the next batch while this one is learned from: by weights that are a step old then, which policy.importanceCap makes
    up for. Only with workers that draw.
    """
    max_mismatch: Annotated[float, Field(gt=0, le=1000)] = 1.0
    """How far log-probabilities in training may be from those that tokens were drawn with, in the mean, in nats. A step beyond
    is refused: weights are given anew to those that draw, and if it is still beyond then, the attempt ends.
    """


class SingleRolloutSettings(RolloutSettings):
    """The responses that the model draws in each step, to learn from."""

    responses: Annotated[int, Field(ge=1, le=1024)] = 1
    """To each prompt."""


class PolicySettings(Model):
    """What responses that were drawn are used for."""

    epochs: Annotated[int, Field(ge=1, le=64)] = 1
    """Times that a step learns from each of its responses."""
    mini_batches: Annotated[int, Field(ge=1, le=1024)] = 1
    """Updates that each of these is made in, of as many prompts; they are dealt out anew each time."""
    clip_low: Annotated[float, Field(gt=0, lt=1)] = 0.2
    """How far the ratio of a token's probabilities, after to before, may fall below 1 for its loss to still pull it down."""
    clip_high: Annotated[float, Field(gt=0, le=100)] = 0.2
    """How far above 1 it may rise (DAPO's "clip-higher", Yu et al. 2025: 0.28)."""
    kl: Annotated[float, Field(ge=0, le=1000)] = 0.0
    """How much going away from the model that the stage begins with costs. More than 0 keeps that model in memory."""
    importance_cap: Annotated[float, Field(ge=1, le=1000)] | None = None
    """Weigh each token by the ratio of its probabilities in training to those it was drawn with, at most this (Yao et al.
    2025, truncated importance sampling): for where the two differ, as in bf16. With rollout.overlap it is 2 where it is left
    out.
    """


class GroupPolicySettings(PolicySettings):
    """GRPO (Shao et al. 2024), and what came of it."""

    advantage: Literal["Group", "Centred", "LeaveOneOut", "Batch"] = "Group"
    """A response's reward less its group's mean; `Group` by the group's deviation (GRPO), `Centred` as it is (Dr. GRPO, Liu et
    al. 2025), `LeaveOneOut` less the mean of the others (RLOO, Ahmadian et al. 2024), `Batch` centred and then by the deviation
    of the whole batch (REINFORCE++ with its baseline, Hu et al. 2025).
    """
    average: Literal["Token", "Response", "Longest"] = "Token"
    """Over all tokens of the update (DAPO, Yu et al. 2025), over responses of their tokens' means (GRPO), or over responses of
    their tokens' sums by maxNewTokens (Dr. GRPO).
    """
    ratio: Literal["Token", "Response"] = "Token"
    """Each token's own ratio (GRPO), or its response's (GSPO, Zheng et al. 2025; clipLow 0.0003 and clipHigh 0.0004 there)."""
    kl: Annotated[float, Field(ge=0, le=1000)] = 0.0
    """How much the divergence from the model that the stage begins with adds to the loss, by the estimator k3. More than 0
    keeps that model in memory.
    """
    overlong_margin: Annotated[int, Field(ge=0, le=1_048_576)] = 0
    """Tokens before maxNewTokens from which on the reward falls, by 1 until there (DAPO's soft punishment); 0 is none."""
    max_batches: Annotated[int, Field(ge=1, le=64)] = 1
    """Batches of prompts that a step draws, at most, until globalBatch of them have responses with different rewards: others
    teach nothing (DAPO's dynamic sampling). Those fill up what is missing then.
    """


class CriticPolicySettings(PolicySettings):
    """PPO (Schulman et al. 2017), as Huang et al. 2024 (arXiv 2403.17031) have it for language models."""

    epochs: Annotated[int, Field(ge=1, le=64)] = 4
    """Times that a step learns from each of its responses."""
    kl: Annotated[float, Field(ge=0, le=1000)] = 0.05
    """How much a token's divergence from the model that the stage begins with is taken from its reward, by the estimator k1."""
    kl_target: Annotated[float, Field(gt=0, le=1000)] | None = None
    """Nats a token that the divergence is held to: kl is what it costs at first then, and goes up and down (Ziegler et al.
    2019, section 2.2).
    """
    kl_horizon: Annotated[int, Field(ge=1, le=10**9)] = 10_000
    """Responses in which that cost changes by a fifth, at most."""
    discount: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Gamma: what a reward counts a token earlier."""
    decay: Annotated[float, Field(ge=0, le=1)] = 0.95
    """Lambda of generalised advantage estimation: 0 trusts the critic, 1 the rewards."""
    value_clip: Annotated[float, Field(gt=0, le=1000)] = 0.2
    """How far a value may move from that before the step for its error to still count."""
    value_weight: Annotated[float, Field(ge=0, le=1000)] = 0.1
    """Of the critic's loss."""


ROLLOUT_RULES = (
    rule(
        "self.rollout.engine == 'Transformers' || self.rollout.workers > 0",
        lambda it: it.rollout.engine == "Transformers" or it.rollout.workers > 0,
        "takes workers that draw beside those that learn; set rollout.workers, or leave it out",
        "rollout.engine",
    ),
    rule(
        "!self.rollout.overlap || self.rollout.workers > 0",
        lambda it: not it.rollout.overlap or it.rollout.workers > 0,
        "takes workers that draw beside those that learn; set rollout.workers, or leave it out",
        "rollout.overlap",
    ),
    rule(
        "self.rollout.maxNewTokens < self.sequenceLength",
        lambda it: it.rollout.max_new_tokens < it.sequence_length,
        "leaves no room for a prompt within sequenceLength; lower it, or raise that",
        "rollout.maxNewTokens",
    ),
    rule(
        "self.policy.miniBatches == 1 || self.globalBatch % (self.microBatch * self.policy.miniBatches) == 0",
        lambda it: it.policy.mini_batches == 1 or it.global_batch % (it.micro_batch * it.policy.mini_batches) == 0,
        "times microBatch does not divide globalBatch; change one of them",
        "policy.miniBatches",
    ),
)
GROUP_RULES = (
    *ROLLOUT_RULES,
    rule(
        "self.rollout.engine == 'Transformers' || !has(self.model.lora)",
        lambda it: it.rollout.engine == "Transformers" or it.model.lora is None,
        "vLLM is given whole weights, without adapters; leave model.lora out, or use Transformers",
        "rollout.engine",
    ),
    rule(
        "self.rollout.responses >= 2",
        lambda it: it.rollout.responses >= 2,
        "a response is compared with others to its prompt; draw at least 2",
        "rollout.responses",
    ),
    rule(
        "self.policy.overlongMargin <= self.rollout.maxNewTokens",
        lambda it: it.policy.overlong_margin <= it.rollout.max_new_tokens,
        "is more than rollout.maxNewTokens; lower it",
        "policy.overlongMargin",
    ),
)
"""Of a stage that has these."""
