"""A rank's signs of life, one a second at most: a step may take a millisecond, and nobody needs to know that often."""

import statistics
import time

from trainyard_api.protocol import Activity, Beat

from .group import Group

SECONDS = 1.0
PACE_STEPS = 20
"""At least, that a pace is the median of."""
PACE_SECONDS = 10.0
"""At least, that those steps take: what a machine does besides for some seconds slows quick steps, and makes no straggler."""


class Pulse:
    """Tells the agent that this rank lives, and what it is at."""

    def __init__(self, group: Group) -> None:
        self._group = group
        self._last = Beat(activity="starting")
        self._told = float("-inf")
        self._own_seconds: list[float] = []
        self._first = float("-inf")

    @property
    def activity(self) -> Activity:
        """What it has said last that it is at."""
        return self._last.activity

    def step(self, step: int, own_seconds: float | None = None) -> None:
        """A step is done, of which its own part took so long."""
        if own_seconds is not None:
            if not self._own_seconds:
                self._first = time.monotonic()
            self._own_seconds.append(own_seconds)
        self.beat("working", step)

    def beat(self, activity: Activity | None = None, step: int | None = None) -> None:
        """It lives, and is at this from now on, after this step: as before where they are left out."""
        before = self._last
        self._last = Beat(activity=activity or before.activity, step=before.step if step is None else step)
        if time.monotonic() >= self._told + SECONDS or self._last.activity != before.activity:
            self._group.report(beat=self._last.model_copy(update=self._pace()))
            self._told = time.monotonic()

    def _pace(self) -> dict[str, float]:
        if len(self._own_seconds) < PACE_STEPS or time.monotonic() < self._first + PACE_SECONDS:
            return {}
        pace = statistics.median(self._own_seconds)
        self._own_seconds = []
        return {"pace": pace}
