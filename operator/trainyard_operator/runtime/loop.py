"""The reconcile loop: workers that take keys from the queue, and a re-list that repairs what watches missed.

An exception in a pass is never the retry: the key goes back with a growing wait.
"""

import asyncio
import logging
import time
from collections.abc import Callable
from datetime import datetime

from trainyard_api.names import KIND

from ..cluster.protocol import Cluster, ConflictError, RefusedError
from .agents import AgentError
from .queue import WorkQueue
from .reconcile import Reconciler
from .store import Key, Store

WORKERS = 8
RELIST_SECONDS = 300.0
PASS_SECONDS = 60.0
"""Deadline of one pass: each of its calls has a shorter one."""

log = logging.getLogger(__name__)


class Loop:
    """Runs passes until it is cancelled. `on_pass` is called with each pass's result and seconds."""

    def __init__(
        self,
        queue: WorkQueue,
        store: Store,
        cluster: Cluster,
        reconciler: Reconciler,
        now: Callable[[], datetime],
        on_pass: Callable[[str, float], None] = lambda result, seconds: None,
        on_repair: Callable[[int], None] = lambda ghosts: None,
    ) -> None:
        self._queue = queue
        self._store = store
        self._cluster = cluster
        self._reconciler = reconciler
        self._now = now
        self._on_pass = on_pass
        self._on_repair = on_repair

    async def run(self) -> None:
        """Work until cancelled; an error that isn't one pass's own ends it, for the process to end."""
        async with asyncio.TaskGroup() as tasks:
            for number in range(WORKERS):
                tasks.create_task(self._work(), name=f"worker {number}")
            tasks.create_task(self._relist(), name="re-list")

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
        except (ConflictError, RefusedError, AgentError, TimeoutError) as error:
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

    async def _relist(self) -> None:
        while True:
            await asyncio.sleep(RELIST_SECONDS)
            try:
                for kind, lister in ((KIND, self._cluster.list_runs), ("Pod", self._cluster.list_pods)):
                    began = self._now()
                    self._on_repair(self._store.repair(await lister(), kind, began))
            except Exception:
                log.exception("re-list failed")
