"""Two candidates for one Lease, over real HTTP. Each has a thread, an event loop and a clock of its own, which the tests turn
forward, so that ten seconds pass at once, for one of the two if need be.
"""

import asyncio
import threading
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

import kopf
import pytest
from aiohttp import web
from conditions import eventually
from lease_server import LeaseServer
from trainyard_operator.cluster.access import Access
from trainyard_operator.cluster.gate import NotLeaderError, WriteGate
from trainyard_operator.cluster.kubernetes import KubernetesCluster
from trainyard_operator.cluster.leases import Lease
from trainyard_operator.runtime.election import LEASE_SECONDS, RENEW_SECONDS, RETRY_SECONDS
from trainyard_operator.runtime.lease import Leadership, LeadershipLostError

SECONDS = 20.0
PODS = "/api/v1/namespaces/team/pods"


class Turned(asyncio.SelectorEventLoop):
    """An event loop whose clock can be turned forward."""

    ahead = 0.0

    def time(self) -> float:
        return super().time() + self.ahead


class Thread:
    """A thread with an event loop."""

    def __init__(self) -> None:
        self.loop = Turned()
        self._thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self._thread.start()

    def start(self, work: Coroutine[Any, Any, Any]) -> "Future[Any]":
        """Do something there."""
        return asyncio.run_coroutine_threadsafe(work, self.loop)

    def do(self, work: Coroutine[Any, Any, Any]) -> Any:
        """Do something there and return its result."""
        return self.start(work).result(SECONDS)

    def turn(self, seconds: float) -> None:
        """Turn its clock forward."""

        async def turn() -> None:
            self.loop.ahead += seconds

        self.do(turn())

    def stop(self) -> None:
        """End all that it does."""

        async def cancel() -> None:
            others = asyncio.all_tasks() - {asyncio.current_task()}
            for task in others:
                task.cancel()
            await asyncio.gather(*others, return_exceptions=True)

        self.do(cancel())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(SECONDS)
        self.loop.close()


@dataclass
class Server(Thread):
    """An API server with a Lease, and a folder for pods that notes who put what there."""

    leases: LeaseServer = field(default_factory=LeaseServer)
    writers: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__()
        self.url = self.do(self._serve())

    async def _serve(self) -> str:
        app = web.Application()
        self.leases.add_to(app)
        app.router.add_post(PODS, self._note)
        runner = web.AppRunner(app, shutdown_timeout=0.1, handler_cancellation=True)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        return f"http://127.0.0.1:{runner.addresses[0][1]}"

    async def _note(self, request: web.Request) -> web.Response:
        self.writers.append((await request.json())["metadata"]["name"])
        return web.json_response({})


class Candidate(Thread):
    """An operator's process, as far as leading goes: what it leads is the making of pods that bear its name."""

    def __init__(self, name: str, server: Server) -> None:
        super().__init__()
        self.name = name
        self.paused = threading.Event()
        self._go_on = threading.Event()
        self._pod = {"kind": "Pod", "metadata": {"namespace": "team", "name": name}}
        self.do(self._connect(server))
        self.end = self.start(self._lead())

    async def _connect(self, server: Server) -> None:
        access = Access(kopf.ConnectionInfo(server=server.url), lambda method, url, code: None)
        self.gate = WriteGate()
        self.lease = Lease(access, "system", "trainyard", deployment="trainyard")
        self.cluster = KubernetesCluster(access, writing=self.gate.writing)
        self.leadership = Leadership(self.lease, self.name, self.gate)

    async def _lead(self) -> None:
        async with self.leadership.held():
            await asyncio.get_running_loop().create_future()

    def write(self) -> None:
        """Try to make a pod."""
        self.do(self.cluster.create(self._pod))

    def pause(self) -> None:
        """Stop it in its tracks, with a write about to be made."""

        async def stand_still() -> None:
            self.paused.set()
            self._go_on.wait(SECONDS)
            await self.cluster.create(self._pod)

        self.late = self.start(stand_still())
        assert self.paused.wait(SECONDS)

    def wake(self, after: float) -> None:
        """Let it go on; on its clock as well, so long has passed."""
        self.loop.ahead += after
        self._go_on.set()

    def stop(self) -> None:
        self._go_on.set()
        self.do(self.cluster.close())
        self.do(self.lease.close())
        super().stop()


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server()
    yield made
    made.stop()


Start = Callable[[str], Candidate]


@pytest.fixture
def start(server: Server) -> Iterator[Start]:
    """Starts candidates."""
    made: list[Candidate] = []

    def one(name: str) -> Candidate:
        made.append(Candidate(name, server))
        return made[-1]

    yield one
    for candidate in made:
        candidate.stop()


def leads(candidate: Candidate) -> None:
    eventually(lambda: candidate.leadership.leads, SECONDS, f"{candidate.name} leads")


@pytest.fixture
def pair(start: Start, server: Server) -> tuple[Candidate, Candidate]:
    """A leader, and one who knows of it."""
    leader = start("first")
    leads(leader)
    eventually(lambda: server.leases.watches == 0, SECONDS, "the leader watches no more")
    follower = start("second")
    eventually(lambda: server.leases.watches == 1, SECONDS, "the follower watches")
    return leader, follower


Pair = tuple[Candidate, Candidate]


def test_one_of_two_leads_and_may_write(pair: Pair, server: Server) -> None:
    leader, follower = pair
    leader.write()
    with pytest.raises(NotLeaderError):
        follower.write()
    assert server.writers == ["first"]
    assert not follower.leadership.leads
    assert server.leases.lease
    assert server.leases.lease["spec"]["leaseDurationSeconds"] == LEASE_SECONDS
    assert server.leases.owners == ["1-2-3"]


def test_a_leader_that_renews_leads_on(pair: Pair, server: Server) -> None:
    leader, follower = pair
    for _ in range(6):
        before = server.leases.lease
        leader.turn(RETRY_SECONDS)
        eventually(lambda before=before: server.leases.lease != before, SECONDS, "the Lease is renewed")
        follower.turn(RETRY_SECONDS)
    leader.write()
    assert not follower.leadership.leads


def test_a_released_lease_is_taken_at_once(pair: Pair, server: Server) -> None:
    leader, follower = pair
    server.leases.deployment = "4-5-6"
    leader.end.cancel()
    leads(follower)
    follower.write()
    assert server.leases.holder == "second"
    assert server.leases.owners == ["4-5-6"]
    assert server.leases.lease["spec"]["leaseTransitions"] == 1  # type: ignore[index]


def test_a_dead_leader_is_succeeded_when_its_lease_expires_on_the_other_s_clock(pair: Pair, server: Server) -> None:
    leader, follower = pair
    leader.pause()
    follower.turn(LEASE_SECONDS - 1)
    assert not follower.leadership.leads
    follower.turn(1)
    leads(follower)
    follower.write()
    assert server.writers == ["second"]


def test_a_paused_leader_writes_nothing_when_it_wakes_and_ends(pair: Pair, server: Server) -> None:
    leader, follower = pair
    leader.pause()
    follower.turn(LEASE_SECONDS)
    leads(follower)
    leader.wake(after=LEASE_SECONDS)
    with pytest.raises(NotLeaderError):
        leader.late.result(SECONDS)
    ended = leader.end.exception(SECONDS)
    assert isinstance(ended, ExceptionGroup)
    assert ended.subgroup(LeadershipLostError)
    assert server.writers == []
    assert server.leases.holder == "second"


def test_a_leader_that_gets_no_answers_stops_before_another_may_begin(pair: Pair, server: Server) -> None:
    leader, follower = pair
    server.leases.answers.clear()
    leader.turn(RENEW_SECONDS)
    eventually(lambda: leader.turn(1) or leader.end.done(), SECONDS, "it ends")
    assert isinstance(leader.end.exception(), ExceptionGroup)
    with pytest.raises(NotLeaderError):
        leader.write()
    assert not follower.leadership.leads


def test_a_process_of_the_same_pod_goes_on_at_once(start: Start, server: Server) -> None:
    leads(start("first"))
    leads(start("first"))


def test_a_deleted_lease_is_made_anew_by_its_leader(pair: Pair, server: Server) -> None:
    leader, _ = pair
    server.loop.call_soon_threadsafe(server.leases.delete)
    eventually(lambda: server.leases.lease is None, SECONDS, "the Lease is deleted")
    leader.turn(RETRY_SECONDS)
    eventually(lambda: server.leases.holder == "first", SECONDS, "the Lease is there again")
    leader.turn(RETRY_SECONDS)
    leader.write()


def test_a_lease_that_has_gone_with_its_deployment_is_made_by_nobody(pair: Pair, server: Server) -> None:
    leader, follower = pair
    server.leases.deployment = None
    server.loop.call_soon_threadsafe(server.leases.delete)
    eventually(lambda: leader.turn(1) or leader.end.done(), SECONDS, "the leader ends")
    before = server.leases.looked_up
    eventually(lambda: follower.turn(1) or server.leases.looked_up > before, SECONDS, "the follower tries")
    assert server.leases.lease is None
    assert not follower.leadership.leads
