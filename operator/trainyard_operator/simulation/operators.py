"""One process of the operator: its own store, queue, client, election, reconciler and loop, all of them the real ones.

What it does not have is kopf. Its watches are made up here, with what they can do to a store: events late, twice, or lost
with the connection, after which a 410 makes kopf list again, which tells nothing of what is gone.
"""

import asyncio
import logging
import random
from collections.abc import Callable
from contextlib import nullcontext
from contextvars import copy_context
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import cast

import aiohttp
from trainyard_api.names import PLURAL

from ..cluster.access import Access, ApiError
from ..cluster.agent_access import AgentAccess
from ..cluster.gate import WriteGate
from ..cluster.kubernetes import KubernetesCluster, slim_run
from ..cluster.leases import Lease
from ..cluster.protocol import GoneError, Manifest
from ..cluster.simulated import ApiServer
from ..decide.observation import Settings
from ..runtime.agents import Agents
from ..runtime.leading import lead
from ..runtime.lease import Leadership, LeadershipLostError
from ..runtime.listing import keep_listing, take_in_patiently
from ..runtime.loop import Loop
from ..runtime.queue import WorkQueue
from ..runtime.reconcile import Reconciler
from ..runtime.store import Store
from .network import Network, Session
from .virtual_time import PROCESS, VirtualTimeLoop

SERVER = "https://kubernetes"
KEY = b"the key of a simulation"
LEASE_NAMESPACE, LEASE_NAME = "team", "trainyard"
STOP_SECONDS = 10.0
"""From SIGTERM to SIGKILL."""
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


@dataclass
class Surroundings:
    """What all processes of the operator live in, and whom they tell."""

    server: ApiServer
    network: Network
    events: EventFaults
    clock_offset: Callable[[], timedelta]
    elected: bool
    broken: Callable[[str], None]
    acts: Callable[["Operator"], None]
    """Told when one begins to act."""
    ended: Callable[["Operator"], None]
    """Told when one has ended."""


class Operator:
    """A process from its start to its death. `replica` is the pod that it runs in: restarted, it has the same name there."""

    def __init__(self, name: str, replica: str, random: random.Random, around: Surroundings) -> None:
        self.name = name
        self.replica = replica
        self.well_since: float | None = None
        """Since when it stands for election with nothing in its way."""
        self._stands = False
        self._random = random
        self._around = around
        self._loop = cast("VirtualTimeLoop", asyncio.get_running_loop())
        access = cast("Access", SimulatedAccess(around.network, name))
        gate = WriteGate()
        writing = gate.writing if around.elected else nullcontext
        self._leadership = Leadership(Lease(access, LEASE_NAMESPACE, LEASE_NAME), replica, gate)
        self.queue = WorkQueue(jitter=random.random)
        self.store = Store(lambda key: self.queue.add(key) if self.leads else None, self.now)
        self.cluster = KubernetesCluster(access, writing=writing)
        self._agents = Agents(self.store, AgentAccess(KEY), self.now, writing, access.session)
        self.context = copy_context()
        self.context.run(PROCESS.set, name)
        self._watches = [Watch(self, around.server, plural, random, around.events) for plural in (PLURAL, "pods")]
        self._task = asyncio.create_task(self._run(), name=name, context=self.context)

    def now(self) -> datetime:
        """The time on this process's clock."""
        return self._loop.now() + self._around.clock_offset()

    @property
    def leads(self) -> bool:
        """Whether it may act."""
        return self._leadership.leads or not self._around.elected

    def stop(self) -> None:
        """SIGTERM: it gives back what it holds, and ends."""
        self.well_since = None
        self._task.cancel()
        self._loop.call_later(STOP_SECONDS, self.die)

    def die(self) -> None:
        """At once, whatever is under way; requests that were sent arrive all the same."""
        self.well_since = None
        self._around.network.gone.add(self.name)
        self._loop.thaw(self.name)
        for watch in self._watches:
            watch.close()
        self._task.cancel()

    def pause(self, seconds: float) -> None:
        """SIGSTOP, and SIGCONT after a while."""
        self.well_since = None
        self._loop.freeze(self.name)
        self._loop.call_later(seconds, self._go_on)

    def _go_on(self) -> None:
        self._loop.thaw(self.name)
        self._be_well()

    def cut_off(self, seconds: float) -> None:
        """Nobody is reached for a while, and nobody heard."""
        self.well_since = None
        self._around.network.isolated.add(self.name)
        for watch in self._watches:
            watch.drop(seconds)
        self._loop.call_later(seconds, self._reach_again)

    def _reach_again(self) -> None:
        self._around.network.isolated.discard(self.name)
        self._be_well()

    def _be_well(self) -> None:
        if self._stands and not self._task.done() and not self._task.cancelling():
            self.well_since = self._loop.time()

    def drop_watches(self) -> None:
        """Lose what happens for some seconds, then list again."""
        for watch in self._watches:
            watch.drop(self._random.uniform(0.1, 8))

    async def _run(self) -> None:
        try:
            await take_in_patiently(self.store, self.cluster, self.now)
            for watch in self._watches:
                watch.open()
            self._stands = True
            self._be_well()
            async with asyncio.TaskGroup() as parts:
                parts.create_task(self._act())
                parts.create_task(keep_listing(self.store, self.cluster, self.now, lambda ghosts: None))
        except ExceptionGroup as errors:
            others = errors.split(LeadershipLostError)[1]
            if others:
                self._around.broken(f"{self.name} ended: {others!r}")
        except EXPECTED:  # the API server was away for as long as it starts
            pass
        finally:
            await self._agents.close()
            for watch in self._watches:
                watch.close()
            self.well_since = None
            self._around.ended(self)

    async def _act(self) -> None:
        if self._around.elected:
            await lead(self._leadership, self.store, self.cluster, self.queue, self._reconciler, self.now)
        else:
            await Loop(self.queue, self._reconciler()).run()

    def _reconciler(self) -> Reconciler:
        self._around.acts(self)
        settings = Settings(trainer_image="trainer:1")
        return Reconciler(self.store, self.cluster, self._agents, settings, self.now)


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
            asyncio.get_running_loop().call_later(seconds, self._reconnect, context=self.operator.context)

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
        loop.call_at(self._due, self._take, event, manifest, context=self.operator.context)

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
