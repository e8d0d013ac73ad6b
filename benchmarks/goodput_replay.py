"""A trace of failures, replayed through one way to recover: where each second of a run goes. Arithmetic alone, no clock.

An attempt trains in whole steps. Every save stalls it, can be resumed from in memory once the stall is over, and from
storage once it is durable. A failure takes training back to the newest save that it leaves, or to where the attempt began;
one that comes during a recovery begins that anew. What an attempt has trained beyond what the next resumes from is trained
again: `recomputed`, the step that was under way included.
"""

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import ceil
from typing import Literal

Kind = Literal["rank", "hang", "pod", "node"]
"""The tiers of docs/recovery.md: a rank died; ranks hang; a worker needs a new pod; a node no longer answers."""


@dataclass(frozen=True)
class Failure:
    """One of a trace, `at` seconds from its start."""

    at: float
    kind: Kind


@dataclass(frozen=True)
class Recovery:
    """What recovering from one kind of failure takes, in seconds, and whether snapshots in memory outlive it."""

    detecting: float
    re_forming: float
    restoring: float
    from_memory: bool = False


@dataclass(frozen=True)
class Policy:
    """A way to save and to recover at one scale; times in seconds."""

    step: float
    stall: float
    durable: float
    """From the begin of a save until storage has it, the stall included."""
    first: float
    """From an attempt's begin to its first save."""
    interval: Callable[[int, float], float]
    """From one save to the next, by failures and seconds of the run so far."""
    recoveries: Mapping[Kind, Recovery]


@dataclass(frozen=True)
class Spent:
    """The seconds of a run, by what they went to; they add up to `total`."""

    productive: float
    stalled: float
    recomputed: float
    detecting: float
    re_forming: float
    restoring: float

    @property
    def total(self) -> float:
        """Seconds that the run took."""
        return sum(vars(self).values())

    @property
    def goodput(self) -> float:
        """Productive of all seconds."""
        return self.productive / self.total


def failures(seed: int, apart: float, seconds: float, shares: Mapping[Kind, int]) -> list[Failure]:
    """A trace: times between failures exponential with mean `apart`, kinds in proportion to `shares`."""
    dice = random.Random(seed)
    kinds, weights = list(shares), list(shares.values())
    trace, at = [], dice.expovariate(1 / apart)
    while at < seconds:
        trace.append(Failure(at, dice.choices(kinds, weights)[0]))
        at += dice.expovariate(1 / apart)
    return trace


def replay(trace: Sequence[Failure], seconds: float, policy: Policy) -> Spent:
    """Where `seconds` of a run go that has these failures. Its first start is left out: it is no recovery."""
    spent = dict.fromkeys(("stalled", "recomputed", "detecting", "re_forming", "restoring"), 0.0)
    trained = in_memory = stored = reached = (
        0.0  # seconds of training: where the attempt began, what can be resumed from
    )
    moments = [0.0, *(failure.at for failure in trace), seconds]
    for count, (now, end) in enumerate(pairwise(moments)):
        if count:
            recovery = policy.recoveries[trace[count - 1].kind]
            trained = in_memory if recovery.from_memory else stored
            spent["recomputed"] += reached - trained
            for what in ("detecting", "re_forming", "restoring"):
                used = min(getattr(recovery, what), end - now)
                spent[what] += used
                now += used
        saves = _Saves(policy, policy.interval(count, now))
        stalled = saves.stalled(end - now)
        spent["stalled"] += stalled
        reached = trained + end - now - stalled
        in_memory = trained + saves.kept(end - now, policy.stall)
        if durable := saves.kept(end - now, policy.durable):  # else what it began from in memory still isn't in storage
            stored = trained + durable
    return Spent(productive=reached, **spent)


class _Saves:
    """The saves of one attempt, as they come due after whole steps."""

    def __init__(self, policy: Policy, interval: float) -> None:
        self._stall = policy.stall
        self._first = policy.step * ceil(policy.first / policy.step)
        self._work = policy.step * ceil(interval / policy.step)

    def _count(self, span: float) -> int:
        """How many begin within the first `span` seconds."""
        return 0 if span < self._first else 1 + int((span - self._first) / (self._work + self._stall))

    def stalled(self, span: float) -> float:
        """Seconds of that which saves stall."""
        if not (count := self._count(span)):
            return 0.0
        last = self._first + (count - 1) * (self._work + self._stall)
        return (count - 1) * self._stall + min(self._stall, span - last)

    def kept(self, span: float, lag: float) -> float:
        """Seconds of training in the newest save that began at least `lag` seconds before `span` is over."""
        count = self._count(span - lag)
        return self._first + (count - 1) * self._work if count else 0.0
