"""What a policy does that pleases who rewards it, and nobody else, is hinted at."""

from typing import Any

import pytest
from trainyard_trainer.reinforcement.hints import Hints, repetition

USUAL = {"reward": 0.5, "response_tokens": 20.0, "repetition": 0.05, "informative": 0.8}


def said_of(**later: Any) -> list[str]:
    hints = Hints()
    for _ in range(10):
        hints.step(USUAL)
    for _ in range(10):
        hints.step(USUAL | later)
    return hints.said()


@pytest.mark.parametrize(
    ("later", "said"),
    [
        ({"response_tokens": 40.0, "reward": 0.7}, "2.0 times as long as at first"),
        ({"repetition": 0.3}, "30% of what responses say they have said before"),
        ({"informative": 0.05}, "95% of responses have the reward of all others"),
    ],
)
def test_a_sign_is_told_with_what_helps(later: dict[str, float], said: str) -> None:
    [hint] = said_of(**later)
    assert said in hint


@pytest.mark.parametrize("later", [{}, {"response_tokens": 40.0, "reward": 0.4}, {"repetition": 0.09, "reward": 0.9}])
def test_what_is_usual_is_no_sign(later: dict[str, float]) -> None:
    assert said_of(**later) == []


def test_few_steps_tell_nothing() -> None:
    hints = Hints()
    for _ in range(19):
        hints.step(USUAL | {"informative": 0.0})
    assert hints.said() == []


@pytest.mark.parametrize(
    ("tokens", "share"), [([1, 2, 3, 4], 0), ([1, 2], 0), ([7] * 12, 0.9), ([1, 2, 3, 1, 2, 3], 1 / 4), ([], 0)]
)
def test_runs_that_were_said_before_are_repeated(tokens: list[int], share: float) -> None:
    assert repetition(tokens) == pytest.approx(share)
