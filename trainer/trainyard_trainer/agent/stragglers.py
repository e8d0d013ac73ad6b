"""Which ranks are slower than the others, by the time that each takes for its own part of a step; all others wait for those.

A pace is a median over 20 steps and ten seconds or more, and a rank has to be slow in two of them in a row: a pause for a
collection of garbage, or a disk that is busy for a moment, makes no straggler. It is told, and nothing is done about it.
"""

import statistics
from collections.abc import Collection, Mapping

from trainyard_api.protocol import Pace, Straggler

TIMES_SLOWER = 1.3
TIMES_SLOWER_OF_TWO = 1.5
"""Of two ranks, nobody can say which one is as it should be."""
LEAST_SECONDS = 0.005
"""By which it is slower: below, it is the scheduler of a busy machine that is seen."""


def persistent(paces: list[float]) -> float | None:
    """What a rank took in the better one of its last two paces; None before it has two."""
    return min(paces[-2:]) if len(paces) > 1 else None


def stragglers(paces: Mapping[int, float], known: Collection[int] = ()) -> list[Straggler]:
    """The slow ones among these ranks. Those that are known for it stay so until they are half as much slower, or one that is
    near the limit would be told again and again.
    """
    if len(paces) < 2:
        return []
    usual = statistics.median_low(paces.values())
    times = TIMES_SLOWER if len(paces) > 2 else TIMES_SLOWER_OF_TWO

    def slow(rank: int, seconds: float) -> bool:
        slower, least = usual * (times - 1), LEAST_SECONDS
        return seconds - usual > max(slower, least) / (2 if rank in known else 1)

    return [
        Straggler(rank=rank, seconds=round(seconds, 4), usual_seconds=round(usual, 4))
        for rank, seconds in sorted(paces.items())
        if slow(rank, seconds)
    ]


def by_rank(*of_agents: list[Pace]) -> dict[int, float]:
    """The paces that agents tell."""
    return {pace.rank: pace.seconds for paces in of_agents for pace in paces}
