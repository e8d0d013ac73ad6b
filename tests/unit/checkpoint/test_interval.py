"""The interval that `everySeconds: auto` chooses, held against Daly's whole model of a run that saves and fails."""

from math import exp

import pytest
from hypothesis import given
from hypothesis import strategies as st
from trainyard_trainer.checkpoint.interval import LONGEST_SECONDS, Cost, best_interval, between_failures

HOUR = 3_600.0


def overhead(interval: float, cost: float, apart: float) -> float:
    """Time that a run takes as a multiple of its work, restarts left out (Daly 2006, eq. 20); saves are `interval` apart."""
    return apart * (exp(interval / apart) - 1) / (interval - cost)


@given(st.floats(0.001, 1), st.floats(HOUR, 1_000 * HOUR), st.floats(0.05, 20))
def test_no_other_interval_is_better_by_a_percent(cost: float, apart: float, other: float) -> None:
    cost *= apart / 20
    best = (2 * cost * apart) ** 0.5
    chosen = best_interval(cost, 0, apart)
    assert chosen == pytest.approx(min(best, LONGEST_SECONDS))
    if best < LONGEST_SECONDS and other * best > cost * 1.01:
        assert overhead(chosen, cost, apart) < 1.01 * overhead(other * best, cost, apart)


CASES = {
    "a stall of 0.1 s and a failure every 8 h": (0.1, 1, 8 * HOUR, 75.9),
    "a cheap save of a run that hardly fails": (0.1, 1, 8_000 * HOUR, 2_400),
    "an hour is the most": (10, 1, 8_000 * HOUR, HOUR),
    "storage takes longer than that": (0.1, 300, 8 * HOUR, 300),
    "also when that is more than an hour": (0.1, 4_000, 8 * HOUR, 4_000),
    "a save that costs nothing is followed by the next": (0, 7, 8 * HOUR, 7),
}


@pytest.mark.parametrize(("cost", "durable", "apart", "seconds"), CASES.values(), ids=CASES.keys())
def test_the_interval_is_in_balance_but_within_bounds(
    cost: float, durable: float, apart: float, seconds: float
) -> None:
    assert best_interval(cost, durable, apart) == pytest.approx(seconds, rel=0.01)


APART = {
    "before a failure 8,000 h a rank are assumed": (0, 60.0, 1_000, 8 * HOUR),
    "a run that has lasted longer than that is believed": (0, 40 * HOUR, 1_000, 40 * HOUR),
    "then it is what was seen": (4, 2 * HOUR, 1_000, HOUR / 2),
}


@pytest.mark.parametrize(("failures", "seconds", "ranks", "apart"), APART.values(), ids=APART.keys())
def test_failures_are_as_far_apart_as_they_were(failures: int, seconds: float, ranks: int, apart: float) -> None:
    assert between_failures(failures, seconds, ranks) == pytest.approx(apart, rel=0.02)


def test_a_save_costs_its_stall_and_what_the_steps_beside_it_are_slower_by() -> None:
    cost = Cost()
    cost.step(30, beside_a_save=False)  # the first one warms up
    for seconds in (1.0, 1.2, 0.8):
        cost.step(seconds, beside_a_save=False)
    for seconds in (1.5, 1.25):
        cost.step(seconds, beside_a_save=True)
    assert cost.saved(stall=0.25) == pytest.approx(1.0)


def test_steps_that_are_quicker_beside_a_save_earn_nothing() -> None:
    cost = Cost()
    for seconds in (1.0, 1.0, 1.0):
        cost.step(seconds, beside_a_save=False)
    cost.step(0.5, beside_a_save=True)
    assert cost.saved(stall=0.25) == pytest.approx(0.25)


def test_the_cost_is_a_mean_over_the_last_saves() -> None:
    cost = Cost()
    means = [cost.saved(stall) for stall in (9.0, 1.0, 1.0, 1.0, 1.0, 1.0)]
    assert means[1] == pytest.approx(5.0)
    assert means[-1] == pytest.approx(1.0)
