"""Whether the process is alive and whether what it believes is fresh, in plain functions of what was noted and when.

Alive (/healthz) is an event loop that answers: a process whose watch or loop has died, or a watch of which has long been
silent, ends by itself. Ready (/readyz) needs the first lists, watches that have shown life lately, and an event loop that
is not seconds late.
"""

import asyncio
from collections import deque
from collections.abc import Callable

LOOP_TICK_SECONDS = 1.0
LOOP_LAG_LIMIT = 5.0
"""Seconds of lateness at which watches and polls of agents begin to miss their deadlines."""
WATCH_AGE_LIMIT = 300.0
"""A watch is opened anew every 120 s, or after 70 s of silence (kopf_wiring): 300 s is two of those and some retries."""
WATCH_DEAD_SECONDS = 900.0
"""Silence after which the process ends: whatever holds the watch up, a new process is free of it."""


class WatchSilentError(Exception):
    """A watch has shown no life for so long that it never will."""


class Health:
    """Signs of life. `now` is a monotonic clock in seconds; `watches` are the watches that there must be."""

    def __init__(self, now: Callable[[], float], watches: tuple[str, ...]) -> None:
        self._now = now
        self._seen: dict[str, float] = dict.fromkeys(watches, now())
        self._lags: deque[float] = deque([0.0], maxlen=60)
        self.listed = False
        """Whether the first lists are in."""

    def saw(self, watch: str) -> None:
        """Note that a watch is alive: it was opened, or brought something. Those that need not be are left out."""
        if watch in self._seen:
            self._seen[watch] = self._now()

    def watch_age(self) -> float:
        """Seconds since the quietest watch was last known to be alive."""
        return self._now() - min(self._seen.values())

    def loop_lag(self) -> float:
        """The worst lateness of the event loop in the last minute, in seconds."""
        return max(self._lags)

    def note_lag(self, seconds: float) -> None:
        """Note how late the event loop was once."""
        self._lags.append(max(0.0, seconds))

    async def measure(self) -> None:
        """Measure the event loop's lateness until cancelled. Raises WatchSilentError when a watch is as good as dead."""
        while self.watch_age() < WATCH_DEAD_SECONDS:
            due = self._now() + LOOP_TICK_SECONDS
            await asyncio.sleep(LOOP_TICK_SECONDS)
            self.note_lag(self._now() - due)
        raise WatchSilentError("; ".join(self.troubles()))

    def troubles(self) -> list[str]:
        """Why the process isn't ready; empty when it is."""
        found = []
        if not self.listed:
            found.append("the first lists of runs and pods are not in")
        now = self._now()
        found += [
            f"the watch on {watch} has shown no life for {now - seen:.0f} s"
            for watch, seen in self._seen.items()
            if now - seen > WATCH_AGE_LIMIT
        ]
        if self.loop_lag() > LOOP_LAG_LIMIT:
            found.append(f"the event loop was {self.loop_lag():.1f} s late within the last minute")
        return found
