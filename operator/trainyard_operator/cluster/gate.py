"""The write gate: whether this process may change anything, asked before every mutation.

Of two operators one acts, the one that holds the Lease. It may write until its last renewal is as old as the renew deadline,
which is before another one may take the Lease over. A write under way when that time comes is cut off, so a process that was
paused (SIGSTOP, a frozen node) sends nothing more when it wakes: what is due on the event loop's clock is cancelled before
any task goes on.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

Writing = Callable[[], AbstractAsyncContextManager[None]]
"""Entered around each mutation; raises NotLeaderError where it may not happen. `nullcontext` lets everything through."""


class NotLeaderError(Exception):
    """This process may not write (any more): another one acts, or will soon."""


class WriteGate:
    """Open until a time on the event loop's clock, which is monotonic; shut at first."""

    def __init__(self) -> None:
        self._until = float("-inf")
        self._under_way: set[asyncio.Timeout] = set()

    @property
    def is_open(self) -> bool:
        """Whether a mutation may begin now."""
        return asyncio.get_running_loop().time() < self._until

    def open_until(self, when: float) -> None:
        """Let mutations through until then, those under way as well."""
        self._until = when
        for timeout in self._under_way:
            if not timeout.expired():
                timeout.reschedule(when)

    def shut(self) -> None:
        """Let nothing through, and cut off what is under way."""
        self.open_until(float("-inf"))

    @asynccontextmanager
    async def writing(self) -> AsyncIterator[None]:
        """The time of one mutation. Raises NotLeaderError if the gate is shut, or shuts meanwhile."""
        if not self.is_open:
            raise NotLeaderError("another operator holds the Lease")
        timeout = asyncio.timeout_at(self._until)
        try:
            async with timeout:
                self._under_way.add(timeout)
                yield
        except TimeoutError as error:
            if timeout.expired():
                raise NotLeaderError("the Lease was lost while a request was under way") from error
            raise
        finally:
            self._under_way.discard(timeout)
