"""An event loop that never waits: when nothing is ready its clock jumps to what is due next, so hours pass in milliseconds.

All of asyncio goes by `loop.time()`, so sleeps, deadlines and timers need not know. The order in which things happen depends
on nothing but what the program does, so a run repeats exactly.

Several processes live in one loop. What belongs to one carries its name in its context, so one alone can be frozen, as SIGSTOP
does it: nothing of it happens until it is thawed, then all that was due meanwhile, timers before the tasks that they cancel.
"""

import asyncio
import heapq
import selectors
import time
from collections import deque
from collections.abc import Callable
from contextvars import Context, ContextVar
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVarTuple

EPOCH = datetime(2026, 1, 1, tzinfo=UTC)
"""The wall clock of everything simulated when its loop begins."""
PROCESS: ContextVar[str] = ContextVar("process", default="")
"""Of which process what happens is; none: of the world around them."""

Ts = TypeVarTuple("Ts")


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """Time stands still while code runs."""

    _ready: deque[Any]
    _scheduled: list[Any]

    def __init__(self) -> None:
        self._ahead = 0.0
        self._frozen: dict[str, tuple[list[Any], list[Any]]] = {}
        """For each process that is frozen, what was ready and what is due later."""
        super().__init__(_Skipping(self._skip))

    def time(self) -> float:
        """Seconds since the loop was made."""
        return self._ahead

    def now(self) -> datetime:
        """The same as a wall clock shows it."""
        return EPOCH + timedelta(seconds=self.time())

    def freeze(self, process: str) -> None:
        """Let nothing of a process happen."""
        self._frozen.setdefault(process, ([], []))

    def thaw(self, process: str) -> None:
        """Let a process go on, with what it was about to do first."""
        ready, scheduled = self._frozen.pop(process, ([], []))
        self._ready.extendleft(reversed(ready))
        for timer in scheduled:
            heapq.heappush(self._scheduled, timer)

    def _run_once(self) -> None:
        if self._frozen:
            self._hold()
        super()._run_once()  # type: ignore[misc]

    def _hold(self) -> None:
        """Take out of the loop's hands what belongs to processes that are frozen."""
        for number, queue in enumerate((self._ready, self._scheduled)):
            held = [(handle, self._frozen.get(handle._context.get(PROCESS, ""))) for handle in queue]
            if not any(where for _, where in held):
                continue
            queue.clear()
            for handle, where in held:
                (where[number] if where else queue).append(handle)
        heapq.heapify(self._scheduled)

    def _skip(self, seconds: float) -> None:
        self._ahead += seconds


class WorkingTimeLoop(VirtualTimeLoop):
    """Time passes with the processor's time that the code of processes takes, as a wall clock would show it on a machine with
    nothing else to do. The world around them is on other machines: what it takes does not count.
    """

    def __init__(self) -> None:
        self._free = time.process_time()
        """The processor's time that does not count."""
        self._stopped: float | None = None
        """The processor's time at which the clock was stopped, while it stands."""
        super().__init__()

    def time(self) -> float:
        """Seconds since the loop was made."""
        worked = time.process_time() if self._stopped is None else self._stopped
        return super().time() + worked - self._free

    def call_soon(
        self, callback: Callable[[*Ts], object], *args: *Ts, context: Context | None = None
    ) -> asyncio.Handle:
        """As every loop's; what belongs to no process costs no time."""
        if _of_process(context):
            return super().call_soon(callback, *args, context=context)
        return super().call_soon(self._off_the_clock, callback, *args, context=context)

    def call_at(
        self, when: float, callback: Callable[[*Ts], object], *args: *Ts, context: Context | None = None
    ) -> asyncio.TimerHandle:
        """As every loop's; what belongs to no process costs no time."""
        if _of_process(context):
            return super().call_at(when, callback, *args, context=context)
        return super().call_at(when, self._off_the_clock, callback, *args, context=context)

    def _off_the_clock(self, callback: Callable[[*Ts], object], *args: *Ts) -> None:
        self._stopped = time.process_time()
        try:
            callback(*args)
        finally:
            self._free += time.process_time() - self._stopped
            self._stopped = None


def _of_process(context: Context | None) -> bool:
    return (PROCESS.get() if context is None else context.get(PROCESS, "")) != ""


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
