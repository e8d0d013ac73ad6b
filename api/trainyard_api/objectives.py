"""What each type of model can be trained on."""

from typing import Literal, get_args

from .model import Rule, rule

ModelType = Literal["llama", "qwen3", "gpt2", "t5", "bert", "modernbert"]
Objective = Literal["NextToken", "MaskedLM", "SpanCorruption", "SequenceToSequence"]
"""What pretrain trains on."""
TrainedOn = Literal[Objective, "Responses", "Preferences", "Unpaired", "Rewards", "Rollouts"]
"""What any stage trains on."""
CONVERSING: tuple[TrainedOn, ...] = ("Responses", "Preferences", "Unpaired", "Rollouts")
"""What makes a model answer what it is told."""

OBJECTIVES: dict[ModelType, tuple[Objective, ...]] = {
    "llama": ("NextToken",),
    "qwen3": ("NextToken",),
    "gpt2": ("NextToken",),
    "t5": ("SpanCorruption", "SequenceToSequence"),
    "bert": ("MaskedLM",),
    "modernbert": ("MaskedLM",),
}
"""The first is what a type is trained on if nothing is said."""


def fitting(objective: Objective) -> list[ModelType]:
    """The types that can be trained on it."""
    return [each for each in get_args(ModelType) if objective in OBJECTIVES[each]]


def _rule(objective: Objective) -> Rule:
    types = fitting(objective)
    return rule(
        f"!has(self.objective) || self.objective != '{objective}' || !has(self.model.type) || self.model.type in {types}",
        lambda it: it.objective != objective or it.model.type is None or it.model.type in types,
        f"{objective} is for {', '.join(types)}; leave objective out for what the type is trained on by default",
        "objective",
    )


OBJECTIVE_RULES: tuple[Rule, ...] = tuple(map(_rule, get_args(Objective)))
"""Of a stage that has a model and an objective: they go together."""
