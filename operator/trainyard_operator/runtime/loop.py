"""The reconcile loop: workers that take keys from the queue.

An exception in a pass is never the retry: the key goes back with a growing wait.
"""

import asyncio
import logging
import time
from collections.abc import Callable

from ..cluster.gate import NotLeaderError
from ..cluster.protocol import ConflictError, RefusedError
from .agents import AgentError
from .queue import WorkQueue
from .reconcile import Reconciler
from .store import Key

WORKERS = 8
PASS_SECONDS = 60.0
"""Deadline of one pass: each of its calls has a shorter one."""

log = logging.getLogger(__name__)


class Loop:
    """Runs passes until it is cancelled. `on_pass` is called with each pass's result and seconds."""

    def __init__(
        self,
        queue: WorkQueue,
        reconciler: Reconciler,
        on_pass: Callable[[str, float], None] = lambda result, seconds: None,
    ) -> None:
        self._queue = queue
        self._reconciler = reconciler
        self._on_pass = on_pass

    async def run(self) -> None:
        """Work until cancelled; an error that isn't one pass's own ends it, for the process to end."""
        async with asyncio.TaskGroup() as tasks:
            for number in range(WORKERS):
                tasks.create_task(self._work(), name=f"worker {number}")

    async def _work(self) -> None:
        while True:
            key = await self._queue.get()
            began = time.monotonic()
            result = await self._pass(key)
            self._queue.done(key)
            self._on_pass(result, time.monotonic() - began)

    async def _pass(self, key: Key) -> str:
        try:
            async with asyncio.timeout(PASS_SECONDS):
                look_again = await self._reconciler.reconcile(key)
        except (ConflictError, RefusedError, AgentError, NotLeaderError, TimeoutError) as error:
            wait = self._queue.retry(key)
            log.info(
                "pass cut short", extra={"run": "/".join(key), "why": str(error), "again_in_seconds": round(wait, 2)}
            )
            return "requeued"
        except Exception:
            wait = self._queue.retry(key)
            log.exception("pass failed", extra={"run": "/".join(key), "again_in_seconds": round(wait, 2)})
            return "failed"
        self._queue.succeeded(key)
        if look_again is not None:
            self._queue.add_after(key, look_again)
        return "succeeded"
