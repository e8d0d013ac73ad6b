"""When the operator is ready, and when it gives up."""

import pytest
from trainyard_operator.observe.health import (
    LOOP_LAG_LIMIT,
    WATCH_AGE_LIMIT,
    WATCH_DEAD_SECONDS,
    Health,
    WatchSilentError,
)


class Clock:
    """A clock that stands until it is moved."""

    def __init__(self) -> None:
        self.time = 1000.0

    def __call__(self) -> float:
        return self.time


def health_with_lists() -> tuple[Health, Clock]:
    clock = Clock()
    health = Health(clock, ("runs", "pods"))
    health.listed = True
    return health, clock


def test_it_is_not_ready_before_the_first_lists_are_in():
    assert Health(Clock(), ("runs",)).troubles() == ["the first lists of runs and pods are not in"]


def test_it_is_ready_with_lists_and_live_watches():
    assert health_with_lists()[0].troubles() == []


def test_one_silent_watch_is_enough_and_is_named():
    health, clock = health_with_lists()
    clock.time += WATCH_AGE_LIMIT + 1
    health.saw("runs")
    assert health.troubles() == ["the watch on pods has shown no life for 301 s"]
    assert health.watch_age() == WATCH_AGE_LIMIT + 1
    health.saw("pods")
    assert health.troubles() == []


def test_a_late_event_loop_is_forgiven_after_a_minute():
    health, _ = health_with_lists()
    health.note_lag(LOOP_LAG_LIMIT + 2)
    assert "7.0 s late" in health.troubles()[0]
    for _ in range(60):
        health.note_lag(0)
    assert health.troubles() == []


async def test_a_watch_that_stays_silent_ends_the_process():
    health, clock = health_with_lists()
    clock.time += WATCH_DEAD_SECONDS
    with pytest.raises(WatchSilentError, match="runs has shown no life"):
        await health.measure()
