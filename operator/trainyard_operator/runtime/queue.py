"""The work queue: each key at most once in it, never in two hands at a time, delayed and retried with growing waits.

As client-go's: a key that is added while it is worked on is worked on again afterwards, so no change is missed.
"""

import asyncio
import random
import time
from collections import deque
from collections.abc import Callable

from .store import Key

FIRST_RETRY_SECONDS = 0.2
LONGEST_RETRY_SECONDS = 60.0


class WorkQueue:
    """Keys of runs that need a look. `jitter` gives numbers in [0, 1), so that retries of many keys spread out;
    `on_taken` is told the seconds that each key has spent in the queue.
    """

    def __init__(
        self, jitter: Callable[[], float] = random.random, on_taken: Callable[[float], None] = lambda seconds: None
    ) -> None:
        self._jitter = jitter
        self._on_taken = on_taken
        self._added: dict[Key, float] = {}
        self._ready: deque[Key] = deque()
        self._waiting: set[Key] = set()
        self._in_hand: set[Key] = set()
        self._again: set[Key] = set()
        self._timers: dict[Key, asyncio.TimerHandle] = {}
        self._failures: dict[Key, int] = {}
        self._some = asyncio.Semaphore(0)
        """As many as are ready: each wakes one of the workers."""
        self.adds = 0
        self.retries = 0

    def __len__(self) -> int:
        return len(self._ready)

    def add(self, key: Key) -> None:
        """Look at `key` as soon as a worker is free."""
        if timer := self._timers.pop(key, None):
            timer.cancel()
        if key in self._in_hand:
            self._again.add(key)
        elif key not in self._waiting:
            self.adds += 1
            self._waiting.add(key)
            self._added[key] = time.monotonic()
            self._ready.append(key)
            self._some.release()

    def add_after(self, key: Key, seconds: float) -> None:
        """Look at `key` after so many seconds, or earlier if an earlier look is due."""
        if key in self._waiting or key in self._again:
            return
        loop = asyncio.get_running_loop()
        known = self._timers.get(key)
        if known is not None and known.when() <= loop.time() + seconds:
            return
        if known is not None:
            known.cancel()
        self._timers[key] = loop.call_later(max(0.0, seconds), self._due, key)

    def _due(self, key: Key) -> None:
        self._timers.pop(key, None)
        self.add(key)

    async def get(self) -> Key:
        """The next key, which is in the caller's hand until `done`."""
        await self._some.acquire()
        key = self._ready.popleft()
        self._waiting.discard(key)
        self._in_hand.add(key)
        self._on_taken(time.monotonic() - self._added.pop(key))
        return key

    def done(self, key: Key) -> None:
        """The caller has finished with `key`, well or not."""
        self._in_hand.discard(key)
        if key in self._again:
            self._again.discard(key)
            self.add(key)

    def succeeded(self, key: Key) -> None:
        """The next failure of `key` is a first one again."""
        self._failures.pop(key, None)

    def retry(self, key: Key) -> float:
        """Look at `key` again after a wait that doubles with each failure in a row; returns the wait in seconds."""
        failures = self._failures[key] = self._failures.get(key, 0) + 1
        longest = min(LONGEST_RETRY_SECONDS, FIRST_RETRY_SECONDS * 2.0 ** (failures - 1))
        wait = longest * (0.5 + self._jitter() / 2)
        self.retries += 1
        self.add_after(key, wait)
        return wait
