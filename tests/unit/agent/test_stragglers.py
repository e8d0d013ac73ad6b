"""Which ranks count as slow: a sentence, what each takes for its own part of a step, who is named."""

import pytest
from trainyard_trainer.agent.stragglers import persistent, stragglers

CASES = {
    "one rank of four that takes half as long again": ([0.1, 0.1, 0.15, 0.1], [2]),
    "two of five": ([0.1, 0.2, 0.1, 0.3, 0.1], [1, 3]),
    "ranks that differ by less than a third": ([0.1, 0.12, 0.11, 0.129], []),
    "a fast one makes no stragglers of the others": ([0.01, 0.1, 0.1], []),
    "of two the slower one, if it is much slower": ([0.1, 0.16], [1]),
    "of two that differ as much as others may": ([0.1, 0.14], []),
    "steps of a millisecond, in which a scheduler's turn counts": ([0.001, 0.001, 0.005], []),
    "one rank alone": ([0.1], []),
    "none": ([], []),
}


@pytest.mark.parametrize(("seconds", "named"), CASES.values(), ids=CASES.keys())
def test_who_is_slower_than_the_others(seconds: list[float], named: list[int]) -> None:
    found = stragglers(dict(enumerate(seconds)))
    assert [each.rank for each in found] == named
    assert all((each.seconds, each.usual_seconds) == (seconds[each.rank], 0.1) for each in found)


def test_one_that_is_known_to_be_slow_stays_so_near_the_limit() -> None:
    paces = {0: 0.1, 1: 0.1, 2: 0.12, 3: 0.1}
    assert stragglers(paces) == []
    assert [each.rank for each in stragglers(paces, known=[2])] == [2]
    assert stragglers(paces | {2: 0.11}, known=[2]) == []


def test_once_slow_is_not_persistent() -> None:
    assert persistent([0.2]) is None
    assert persistent([0.1, 0.2]) == persistent([0.2, 0.1]) == 0.1
    assert persistent([0.1, 0.2, 0.3]) == 0.2
