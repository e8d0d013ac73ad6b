"""Leadership of one process: waits to be elected (election.py decides), renews while it leads, opens the write gate for as
long as each renewal lasts, and gives the Lease back at the end.

Leadership is never regained: a process that has lost it ends, and a new one, with nothing to unlearn, stands for election.
A follower watches the Lease, so it learns of a release at once. The clock is the event loop's.
"""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp

from ..cluster.access import ApiError
from ..cluster.gate import WriteGate
from ..cluster.leases import Lease
from ..cluster.protocol import ConflictError, GoneError
from .election import Lost, Record, View, Wait, Write, elect

WATCH_PAUSE_SECONDS = 0.5
"""From the end of a watch to the next one."""
UNREACHABLE = (ApiError, aiohttp.ClientError, TimeoutError)

log = logging.getLogger(__name__)


class LeadershipLostError(Exception):
    """This process led and no longer does; it must end."""


class Leadership:
    """One candidate's."""

    def __init__(self, lease: Lease, identity: str, gate: WriteGate) -> None:
        self._lease = lease
        self._gate = gate
        self._view = View(identity)
        self._news = asyncio.Event()

    @property
    def leads(self) -> bool:
        """Whether this process was elected; it ends when it no longer is."""
        return self._view.renewed is not None

    @asynccontextmanager
    async def held(self) -> AsyncIterator[None]:
        """Wait to be elected, lead while the context lasts, and let another lead at once.

        What is done in it is cancelled when leadership is lost, and LeadershipLostError raised (in a group).
        """
        try:
            await self._campaign()
            log.info("leading", extra={"lease": self._lease.name, "as": self._view.me})
            async with asyncio.TaskGroup() as tasks:
                renewing = tasks.create_task(self._renew(), name="renewals")
                yield
                renewing.cancel()
        finally:
            self._gate.shut()
            await self._release()

    async def _campaign(self) -> None:
        watching = asyncio.create_task(self._watch(), name="watch on the Lease")
        try:
            await self._news.wait()
            while not self.leads:
                await self._step()
        finally:
            watching.cancel()
            await asyncio.wait({watching})

    async def _renew(self) -> None:
        while True:
            await self._step()

    async def _step(self) -> None:
        match elect(self._view, _now()):
            case Write():
                await self._write()
            case Wait(seconds):
                await self._news_within(seconds)
            case Lost(why):
                raise LeadershipLostError(why)

    async def _write(self) -> None:
        sent = _now()
        try:
            record = await self._lease.write(self._view.record, self._view.me)
        except (ConflictError, GoneError) as error:
            self._view = self._view.failed(sent)
            log.info("Lease has changed", extra={"error": str(error)})
            await self._learn()
        except UNREACHABLE as error:
            self._view = self._view.failed(sent)
            log.warning("Lease not written", extra={"error": str(error) or type(error).__name__})
        else:
            self._view = self._view.wrote(record, sent, _now())
            self._gate.open_until(self._view.until)

    async def _learn(self) -> bool:
        """Read the Lease; whether that worked."""
        try:
            self._saw(await self._lease.read())
        except UNREACHABLE as error:
            log.warning("Lease not read", extra={"error": str(error) or type(error).__name__})
            return False
        return True

    async def _watch(self) -> None:
        """See each change until cancelled."""
        while True:
            try:
                if await self._learn():
                    async for record in self._lease.changes(self._view.record):
                        self._saw(record)
            except UNREACHABLE as error:
                log.debug("watch on the Lease ended", extra={"error": str(error) or type(error).__name__})
            await asyncio.sleep(WATCH_PAUSE_SECONDS)

    def _saw(self, record: Record | None) -> None:
        self._view = self._view.saw(record, _now())
        self._news.set()

    async def _news_within(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._news.wait()
        except TimeoutError:
            pass
        self._news.clear()

    async def _release(self) -> None:
        """Take our name off the Lease, if it is there. Read first: the answer to our last write may not have come."""
        try:
            record = await self._lease.read()
            if record and record.holder == self._view.me:
                await self._lease.write(record, holder="")
        except (*UNREACHABLE, ConflictError, GoneError) as error:
            log.warning("Lease not released; it will expire", extra={"error": str(error) or type(error).__name__})


def _now() -> float:
    return asyncio.get_running_loop().time()
