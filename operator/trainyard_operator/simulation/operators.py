"""One process of the operator: its own store, queue, client, reconciler and loop, all of them the real ones.

What it does not have is kopf. Its watches are made up here, with what they can do to a store: events late, twice, or lost
with the connection, after which a 410 makes kopf list again, which tells nothing of what is gone.
"""

import asyncio
import logging
import random
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import cast

import aiohttp
from trainyard_api.names import PLURAL

from ..cluster.access import Access, ApiError
from ..cluster.agent_access import AgentAccess
from ..cluster.kubernetes import KubernetesCluster, slim_run
from ..cluster.protocol import GoneError, Manifest
from ..cluster.simulated import ApiServer
from ..decide.observation import Settings
from ..runtime.agents import Agents
from ..runtime.listing import keep_listing, take_in_patiently
from ..runtime.loop import Loop
from ..runtime.queue import WorkQueue
from ..runtime.reconcile import Reconciler
from ..runtime.store import Store
from .network import Network, Session
from .virtual_time import VirtualTimeLoop

SERVER = "https://kubernetes"
KEY = b"the key of a simulation"
EXPECTED = (ApiError, GoneError, aiohttp.ClientError, TimeoutError)
"""Errors that end a pass, and no more."""


@dataclass
class SimulatedAccess:
    """The way to the API server for one process."""

    network: Network
    sender: str
    server: str = SERVER

    def session(self) -> Session:
        """A session."""
        return Session(self.network, self.sender)


@dataclass
class EventFaults:
    """Chances at each event of a watch."""

    lost: float = 0.0
    repeated: float = 0.0
    calm: bool = False


class Operator:
    """A process from its start to its death."""

    def __init__(
        self,
        name: str,
        server: ApiServer,
        network: Network,
        random: random.Random,
        faults: EventFaults,
        clock_offset: Callable[[], timedelta],
        broken: Callable[[str], None],
    ) -> None:
        self.name = name
        self._server = server
        self._random = random
        self._faults = faults
        self._clock_offset = clock_offset
        self._broken = broken
        access = SimulatedAccess(network, name)
        self.queue = WorkQueue(jitter=random.random)
        self.store = Store(self.queue.add, self.now)
        self.cluster = KubernetesCluster(cast("Access", access))
        session = cast("Callable[[], aiohttp.ClientSession]", access.session)
        self._agents = Agents(self.store, AgentAccess(KEY), self.now, session=session)
        self._watches = [Watch(self, server, plural, random, faults) for plural in (PLURAL, "pods")]
        self._task = asyncio.create_task(self._run(), name=name)

    def now(self) -> datetime:
        """The time on this process's clock."""
        return cast("VirtualTimeLoop", asyncio.get_running_loop()).now() + self._clock_offset()

    def die(self) -> None:
        """At once, whatever is under way; requests that were sent arrive all the same."""
        for watch in self._watches:
            watch.close()
        self._task.cancel()

    @property
    def dead(self) -> bool:
        """Whether it is on its way out, or gone."""
        return self._task.cancelling() > 0 or self._task.done()

    def drop_watches(self) -> None:
        """Lose what happens for some seconds, then list again."""
        for watch in self._watches:
            watch.drop(self._random.uniform(0.1, 8))

    async def _run(self) -> None:
        settings = Settings(trainer_image="trainer:1")
        reconciler = Reconciler(self.store, self.cluster, self._agents, settings, self.now)
        try:
            await take_in_patiently(self.store, self.cluster, self.now)
            for watch in self._watches:
                watch.open()
            async with asyncio.TaskGroup() as parts:
                parts.create_task(Loop(self.queue, reconciler).run())
                parts.create_task(keep_listing(self.store, self.cluster, self.now, lambda ghosts: None))
        except Exception as error:
            self._broken(f"{self.name} ended: {error!r}")
        finally:
            await self._agents.close()


@dataclass
class Watch:
    """One kind's events, into a store."""

    operator: Operator
    server: ApiServer
    plural: str
    random: random.Random
    faults: EventFaults
    connected: bool = False
    _open: bool = False
    _due: float = 0.0

    def open(self) -> None:
        """From what there is now on."""
        self._open = True
        self.server.watch(self.plural, self._happened)
        self._reconnect()

    def close(self) -> None:
        """Tell nothing more."""
        if self._open:
            self.server.unwatch(self.plural, self._happened)
        self._open = self.connected = False

    def drop(self, seconds: float) -> None:
        """Lose events for so long."""
        if self.connected:
            self.connected = False
            asyncio.get_running_loop().call_later(seconds, self._reconnect)

    def _reconnect(self) -> None:
        if not self._open:
            return
        self.connected = True
        for manifest in self.server.all(self.plural):
            self._deliver("MODIFIED", manifest)

    def _happened(self, event: str, manifest: Manifest) -> None:
        calm = self.faults.calm
        if not self.connected:
            return
        if self.random.random() < self.faults.lost and not calm:
            self.drop(1)
            return
        self._deliver(event, manifest)
        if self.random.random() < self.faults.repeated and not calm:
            self._deliver(event, manifest)

    def _deliver(self, event: str, manifest: Manifest) -> None:
        loop = asyncio.get_running_loop()
        self._due = max(self._due + 1e-6, loop.time() + self.random.uniform(0.002, 0.05))
        loop.call_at(self._due, self._take, event, manifest)

    def _take(self, event: str, manifest: Manifest) -> None:
        if not self._open:
            return
        if event == "DELETED":
            self.operator.store.remove(manifest)
        else:
            self.operator.store.put(slim_run(manifest))


class Failures(logging.Handler):
    """Hears of passes that failed for reasons that the reconcile loop does not expect."""

    def __init__(self, broken: Callable[[str], None]) -> None:
        super().__init__(logging.ERROR)
        self._said = broken

    def emit(self, record: logging.LogRecord) -> None:
        """Take note."""
        error = record.exc_info[1] if record.exc_info else None
        if error and not isinstance(error, EXPECTED):
            self._said(f"{record.getMessage()}: {error!r}")
