"""Mistakes in stages that learn from rewards, as `bad_specs` has those of all others."""

from typing import Any

from kind.bad_specs import LEFT_OUT, Changes, tuned

REWARDS = [{"function": "functions.py:right"}]
OF_EITHER: dict[str, tuple[dict[str, Any], str, str]] = {
    "by a name that names no function": ({"rewards": [{"function": "functions.py"}]}, "rewards[0].function", ""),
    "by nobody": ({"rewards": [{"weight": 2}]}, "rewards[0]", "give exactly one of function and stage"),
    "by a stage that gives none": (
        {"rewards": [*REWARDS, {"stage": "corpus"}]},
        "rewards[1].stage",
        "corpus is not an earlier reward stage",
    ),
    "on the data of no stage": ({"data": "report"}, "data", "report is not an earlier prepare stage"),
    "on a part that no stage prepares": (
        {"data": LEFT_OUT, "mixture": [{"data": "report", "weight": 1}]},
        "mixture[0].data",
        "report is not an earlier prepare stage",
    ),
    "with a validation set that no stage prepares": (
        {"validation": {"sets": [{"data": "report"}]}},
        "validation.sets[0].data",
        "report is not an earlier prepare stage",
    ),
    "from a stage that trains none": ({"model": {"stage": "corpus"}}, "model.stage", "corpus is not an earlier"),
    "with prompts that ranks can't share": (
        {"globalBatch": 30},
        "globalBatch",
        "30 is not divisible by 4 ranks × microBatch 4; use 16 or 32",
    ),
    "with the loss of tokens": ({"loss": {"zLoss": 0.1}}, "loss", "here it is of pairs"),
    "by ranks that share layers": ({"tensorParallel": 2}, "sequenceParallel", "responses are compared by one rank"),
    "with a compiler": ({"compile": True}, "compile", "responses have all lengths"),
    "with responses that leave prompts no room": (
        {"rollout": {"maxNewTokens": 512}},
        "rollout.maxNewTokens",
        "leaves no room for a prompt",
    ),
    "with more workers that draw than leave some to learn": (
        {"rollout": {"workers": 4}},
        "rollout.workers",
        "4 of 4 workers leave none to learn; lower it, or raise workers.count",
    ),
    "with prompts that those who learn can't share": (
        {"rollout": {"workers": 1}},
        "globalBatch",
        "32 is not divisible by 3 ranks × microBatch 4; use 24 or 36",
    ),
    "by vLLM, where those that learn draw": (
        {"rollout": {"engine": "VLLM"}},
        "rollout.engine",
        "takes workers that draw",
    ),
    "ahead of themselves": ({"rollout": {"overlap": True}}, "rollout.overlap", "takes workers that draw beside those"),
    "in more parts than a batch has": (
        {"policy": {"miniBatches": 3}},
        "policy.miniBatches",
        "does not divide globalBatch",
    ),
}
"""What is changed, the field that is named, and what is said of it."""


def _rewarded(kind: str, **changes: Any) -> Changes:
    """Learning from rewards in the place of pretraining, changed."""
    return tuned(kind, **{"rewards": REWARDS, **changes})


BAD_REWARDS: dict[str, tuple[Changes, tuple[str, ...]]] = {
    f"{kind} {name}": (_rewarded(kind, **changes), (f"stages[1].{kind}.{field}", said))
    for kind in ("ppo", "grpo")
    for name, (changes, field, said) in OF_EITHER.items()
} | {
    "what holds to a target at no cost": (
        _rewarded("ppo", policy={"kl": 0, "klTarget": 0.1}),
        ("stages[1].ppo.policy.klTarget", "is reached from a cost that is more than 0"),
    ),
    "one response, compared with others": (
        _rewarded("grpo", rollout={"responses": 1}),
        ("spec.stages[1].grpo.rollout.responses", "draw at least 2"),
    ),
    "a margin longer than responses": (
        _rewarded("grpo", policy={"overlongMargin": 65}),
        ("spec.stages[1].grpo.policy.overlongMargin", "is more than rollout.maxNewTokens"),
    ),
    "adapters for vLLM": (
        _rewarded(
            "grpo",
            model={"stage": "corpus", "lora": {"rank": 4}},
            rollout={"engine": "VLLM", "workers": 2},
            globalBatch=16,
        ),
        ("spec.stages[1].grpo.rollout.engine", "vLLM is given whole weights, without adapters"),
    ),
    "adapters beside a critic": (
        _rewarded("ppo", model={"stage": "corpus", "lora": {"rank": 4}}),
        ("spec.stages[1].ppo.model.lora", "the critic has no adapters"),
    ),
}
