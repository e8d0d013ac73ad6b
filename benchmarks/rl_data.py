"""What a step of `benchmarks.rl` is: the same number of responses, equally long, to the same prompts."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from training import a_job
from trainyard_api.protocol import Job

PROMPTS, RESPONSES, LONGEST = 4, 8, 48
"""Of a step, to each, and tokens of each: a model that has learned nothing hardly ever ends before."""


def reward(completions: Sequence[str], **_: Any) -> list[float]:
    """Something that differs: how many words a response has but once."""
    return [float(len(set(each.split()))) for each in completions]


def a_job_to_train(scratch: Path) -> Job:
    """A stage that goes on for as long as it is let."""
    settings = {
        "data": "data",
        "model": {"path": str(scratch / "model")},
        "steps": 1_000_000,
        "sequenceLength": 256,
        "globalBatch": PROMPTS,
        "microBatch": PROMPTS,
        "rollout": {"responses": RESPONSES, "maxNewTokens": LONGEST},
        "rewards": [{"function": "benchmarks.rl_data:reward"}],
        "validation": {"everySteps": 1_000_000},
        "checkpoint": {"everySteps": 1_000_000},
    }
    (scratch / "grpo").mkdir(exist_ok=True)
    return a_job("grpo", scratch / "grpo", settings, {"data": scratch / "data"})
