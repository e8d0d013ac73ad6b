from typing import Any

import pytest
from trainyard_api.optimizer_settings import ScheduleSettings
from trainyard_api.training_stages import PretrainStage
from trainyard_trainer.engine.schedule import learning_rate

PEAK = 1e-3


def a_stage(steps: int, **schedule: Any) -> PretrainStage:
    return PretrainStage.model_validate(
        {
            "data": "corpus",
            "model": {"type": "llama"},
            "steps": steps,
            "optimizer": {"learningRate": PEAK},
            "schedule": ScheduleSettings(**schedule).wire(),
        }
    )


STABLE = a_stage(100, warmup_steps=10, shape="WarmupStableDecay", decay_steps=20)
CASES = {
    "the first step of a warm-up is already one part of it": (a_stage(100, warmup_steps=10), 1, PEAK / 10),
    "the peak is reached with the last step of the warm-up": (a_stage(100, warmup_steps=10), 10, PEAK),
    "half-way down the cosine is half-way between peak and end": (a_stage(110, warmup_steps=10), 60, PEAK * 0.55),
    "the last step has the final share of the peak": (a_stage(100, warmup_steps=10), 100, PEAK * 0.1),
    "a share of 1 keeps the peak": (a_stage(100, final_fraction=1.0), 77, PEAK),
    "a share of 0 ends at zero": (a_stage(100, final_fraction=0.0), 100, 0.0),
    "a run that is all warm-up ends at the peak": (a_stage(10, warmup_steps=10), 10, PEAK),
    "a warm-up longer than the run never reaches the peak": (a_stage(5, warmup_steps=10), 5, PEAK / 2),
    "half-way down the line is half-way between peak and end": (
        a_stage(110, warmup_steps=10, shape="Linear"),
        60,
        PEAK * 0.55,
    ),
    "a line ends at the final share": (a_stage(100, warmup_steps=10, shape="Linear"), 100, PEAK * 0.1),
    "a stable rate is the peak until it decays": (STABLE, 80, PEAK),
    "it decays along a line": (STABLE, 90, PEAK * 0.55),
    "and ends at the final share": (STABLE, 100, PEAK * 0.1),
    "by itself it decays in the last tenth": (a_stage(100, shape="WarmupStableDecay"), 95, PEAK * 0.55),
    "a decay longer than what the warm-up leaves begins after it": (
        a_stage(100, warmup_steps=50, shape="WarmupStableDecay", decay_steps=80),
        75,
        PEAK * 0.55,
    ),
    "a run of one step without warm-up takes the end of the cosine": (a_stage(1), 1, PEAK * 0.1),
}


@pytest.mark.parametrize(("stage", "step", "expected"), CASES.values(), ids=CASES.keys())
def test_learning_rate(stage: PretrainStage, step: int, expected: float) -> None:
    assert learning_rate(step, stage) == pytest.approx(expected, rel=1e-12, abs=1e-15)
