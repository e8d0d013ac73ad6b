"""The arithmetic of benchmarks.goodput: what failures and saves cost a run, second by second."""

import pytest

from benchmarks.goodput_replay import Failure, Policy, Recovery, Spent, failures, replay

SHARES = {"rank": 3, "node": 1}
POLICY = Policy(
    step=10,
    stall=1,
    durable=5,
    first=10,
    interval=lambda failures, seconds: 99,  # a save every 101 s: ten steps and a stall
    recoveries={"rank": Recovery(2, 3, 4, from_memory=True), "node": Recovery(20, 30, 40)},
)


def spent(productive: float, stalled: float, recomputed: float = 0, *recovering: float) -> Spent:
    return Spent(productive, stalled, recomputed, *(recovering or (0, 0, 0)))


CASES = {
    "without failures only saves cost": ([], 1_021, spent(1_010, 11)),
    "a run shorter than its first save loses nothing": ([], 9, spent(9, 0)),
    "a save that the end cuts short has stalled that far": ([], 111.5, spent(110, 1.5)),
    "a failure costs detecting, re-forming, restoring, and what was trained since the snapshot": (
        [Failure(200, "rank")],  # saves at 10 and 111: 198 s trained, 110 kept
        209,
        spent(110, 2, 88, 2, 3, 4),
    ),
    "a snapshot that is not durable yet does for a rank": ([Failure(114, "rank")], 123, spent(110, 2, 2, 2, 3, 4)),
    "but not for a lost node": ([Failure(114, "node")], 204, spent(10, 2, 102, 20, 30, 40)),
    "a node lost after that has the durable one": ([Failure(116, "node")], 206, spent(110, 2, 4, 20, 30, 40)),
    "before the first save all is lost": ([Failure(8, "rank")], 17, spent(0, 0, 8, 2, 3, 4)),
    "a failure during a recovery begins it anew": (
        [Failure(116, "rank"), Failure(119, "rank")],
        128,
        spent(110, 2, 4, 4, 4, 4),
    ),
    "a node lost then takes what only memory had": (
        [Failure(114, "rank"), Failure(123, "node")],
        213,
        spent(10, 2, 102, 22, 33, 44),
    ),
}


@pytest.mark.parametrize(("trace", "seconds", "expected"), CASES.values(), ids=CASES.keys())
def test_each_second_is_put_down_to_what_it_went_to(trace: list[Failure], seconds: float, expected: Spent) -> None:
    assert vars(replay(trace, seconds, POLICY)) == pytest.approx(vars(expected))


def test_nothing_is_counted_twice_or_left_out() -> None:
    for seed in range(20):
        trace = failures(seed, 60, 20_000, SHARES)
        assert replay(trace, 20_000, POLICY).total == pytest.approx(20_000)


def test_a_trace_has_the_published_rate_and_shares_and_comes_again_from_its_seed() -> None:
    trace = failures(7, 100, 1_000_000, SHARES)
    assert len(trace) == pytest.approx(10_000, rel=0.03)
    assert sum(each.kind == "rank" for each in trace) / len(trace) == pytest.approx(0.75, rel=0.03)
    assert trace == failures(7, 100, 1_000_000, SHARES)
