"""What a user may say of learning from rewards: who gives them, how responses are drawn, and what is minimised."""

from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from .model import Model, rule


class RewardFunctionSettings(Model):
    """A function of the user's, which runs in a process of its own beside each rank."""

    function: Annotated[str, StringConstraints(pattern=r"^.+:[A-Za-z_][A-Za-z0-9_]*$", max_length=1024)]
    """`path/to/file.py:function`, where relative paths start at the storage root, or `module:function`. It is called with lists
    `prompts`, `completions` and `answers`, and gives a list of as many numbers: docs/stages.md.
    """
    weight: Annotated[float, Field(ge=-1000, le=1000)] = 1.0
    """A response's reward is the sum of what all functions give, each so many times."""
    timeout_seconds: Annotated[float, Field(gt=0, le=86_400)] = 60.0
    """For a call. Of a function that takes longer the process is killed, and those responses are left out."""


class RolloutSettings(Model):
    """The responses that the model draws in each step, to learn from."""

    responses: Annotated[int, Field(ge=2, le=1024)] = 8
    """To each prompt: its group."""
    max_new_tokens: Annotated[int, Field(ge=1, le=1_048_576)] = 64
    """Tokens of a response, at most."""
    temperature: Annotated[float, Field(gt=0, le=10)] = 1.0
    """Of drawing, and so of the probabilities that are learned."""


class GroupPolicySettings(Model):
    """GRPO (Shao et al. 2024), and what came of it."""

    advantage: Literal["Group", "Centred", "LeaveOneOut"] = "Group"
    """A response's reward less its group's mean; `Group` by the group's deviation (GRPO), `Centred` as it is (Dr. GRPO, Liu et
    al. 2025), `LeaveOneOut` less the mean of the others (RLOO, Ahmadian et al. 2024).
    """
    average: Literal["Token", "Response", "Longest"] = "Token"
    """Over all tokens of the step (DAPO, Yu et al. 2025), over responses of their tokens' means (GRPO), or over responses of
    their tokens' sums by maxNewTokens (Dr. GRPO).
    """
    overlong_margin: Annotated[int, Field(ge=0, le=1_048_576)] = 0
    """Tokens before maxNewTokens from which on the reward falls, by 1 until there (DAPO's soft punishment); 0 is none."""


GRPO_RULES = (
    rule(
        "self.rollout.maxNewTokens < self.sequenceLength",
        lambda it: it.rollout.max_new_tokens < it.sequence_length,
        "leaves no room for a prompt within sequenceLength; lower it, or raise that",
        "rollout.maxNewTokens",
    ),
    rule(
        "self.policy.overlongMargin <= self.rollout.maxNewTokens",
        lambda it: it.policy.overlong_margin <= it.rollout.max_new_tokens,
        "is more than rollout.maxNewTokens; lower it",
        "policy.overlongMargin",
    ),
)
"""Of a stage that has these."""
