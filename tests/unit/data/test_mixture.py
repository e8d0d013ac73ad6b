"""The schedule is pinned: a checkpoint's data cursor means the same after an upgrade. And it stays within its bounds."""

import numpy as np
import pytest
from trainyard_trainer.data.mixture import Mixture, Schedule

SCHEDULES = {
    "one part": ([5], [0]),
    "three to one": ([3, 1], [0, 0, 1, 0]),
    "a common divisor is no matter": ([6, 2], [0, 0, 1, 0]),
    "three alike": ([1, 1, 1], [0, 1, 2]),
    "five to three to two": ([5, 3, 2], [0, 1, 0, 2, 0, 1, 0, 2, 0, 1]),
}


@pytest.mark.parametrize(("weights", "parts"), SCHEDULES.values(), ids=SCHEDULES.keys())
def test_the_schedule_never_changes_from_release_to_release(weights: list[int], parts: list[int]) -> None:
    assert Schedule.of(weights).parts.tolist() == parts


def test_the_samples_never_change_from_release_to_release() -> None:
    parts, samples = Mixture(0, [3, 1], [10, 4]).samples(10**12, 8)
    assert parts.tolist() == [0, 0, 1, 0, 0, 0, 1, 0]
    assert samples.tolist() == [7, 3, 0, 4, 2, 0, 1, 6]


def test_parts_of_the_same_size_have_orders_of_their_own() -> None:
    mixture = Mixture(3, [1] * 4, [1000] * 4)
    orders = [order.samples(0, 1000) for order in mixture.orders]
    assert max(np.mean(a == b) for i, a in enumerate(orders) for b in orders[:i]) < 0.01


def test_the_largest_table_is_small() -> None:
    schedule = Schedule.of([10_000 - part for part in range(32)])
    assert len(schedule.parts) == 319_504
    assert schedule.parts.nbytes + schedule.turns.nbytes < 3_000_000
