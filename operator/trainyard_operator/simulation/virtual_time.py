"""An event loop that never waits: when nothing is ready its clock jumps to what is due next, so hours pass in milliseconds.

All of asyncio goes by `loop.time()`, so sleeps, deadlines and timers need not know. The order in which things happen depends
on nothing but what the program does, so a run repeats exactly.
"""

import asyncio
import selectors
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

EPOCH = datetime(2026, 1, 1, tzinfo=UTC)
"""The wall clock of everything simulated when its loop begins."""


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """Time stands still while code runs; with `work_takes_time` it passes with the processor's time that the code takes: it
    waits for nothing that is real, so this is what a wall clock would show on a machine with nothing else to do.
    """

    def __init__(self, *, work_takes_time: bool = False) -> None:
        self._ahead = 0.0
        self._work = time.process_time if work_takes_time else lambda: 0.0
        self._began = self._work()
        super().__init__(_Skipping(self._skip))

    def time(self) -> float:
        """Seconds since the loop was made."""
        return self._ahead + self._work() - self._began

    def now(self) -> datetime:
        """The same as a wall clock shows it."""
        return EPOCH + timedelta(seconds=self.time())

    def _skip(self, seconds: float) -> None:
        self._ahead += seconds


class _Skipping(selectors.SelectSelector):
    """Files are never ready, and waiting for them takes no time."""

    def __init__(self, skip: Callable[[float], None]) -> None:
        super().__init__()
        self._skip = skip

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            raise RuntimeError("nothing is left that could ever happen: everything waits for something else")
        if timeout > 0:
            self._skip(timeout)
        return []
