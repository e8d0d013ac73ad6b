"""Nothing is changed by a process that may not: all that changes anything passes the gate, reads don't."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import kopf
import pytest
from aiohttp import web
from builders import manifest
from trainyard_api.protocol import Assignment
from trainyard_operator.cluster.access import Access
from trainyard_operator.cluster.agent_access import AgentAccess
from trainyard_operator.cluster.gate import NotLeaderError, WriteGate
from trainyard_operator.cluster.kubernetes import KubernetesCluster
from trainyard_operator.cluster.pace import Pace
from trainyard_operator.decide.observation import read_run
from trainyard_operator.runtime.agents import Agents
from trainyard_operator.runtime.store import Store

METADATA = {"namespace": "team", "name": "n", "uid": "u", "resourceVersion": "1"}
POD = {"kind": "Pod", "metadata": METADATA, "status": {"podIP": "127.0.0.1"}}
"""Nothing listens where its agent should."""

CHANGES: dict[str, Callable[[KubernetesCluster], Awaitable[Any]]] = {
    "making a pod": lambda cluster: cluster.create(POD),
    "making a secret": lambda cluster: cluster.create(POD | {"kind": "Secret"}),
    "deleting a pod": lambda cluster: cluster.delete_pod(POD, None),
    "deleting a run": lambda cluster: cluster.delete_run(read_run(manifest())[0]),
    "writing a status": lambda cluster: cluster.write_status({"metadata": METADATA}, {}),
    "recording an event": lambda cluster: cluster.post_event({"metadata": METADATA}, "Normal", "Completed", "done"),
}


class Answering:
    """An API server that notes which methods arrive and answers when it may."""

    def __init__(self) -> None:
        self.methods: list[str] = []
        self.arrived = asyncio.Event()
        self.may_answer = asyncio.Event()
        self.may_answer.set()

    async def handle(self, request: web.Request) -> web.Response:
        self.methods.append(request.method)
        self.arrived.set()
        await self.may_answer.wait()
        return web.json_response({"items": [], "metadata": {}})


@asynccontextmanager
async def gated(gate: WriteGate, server: Answering, pace: Pace | None = None) -> AsyncIterator[KubernetesCluster]:
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", server.handle)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    connection = kopf.ConnectionInfo(server=f"http://127.0.0.1:{runner.addresses[0][1]}")
    access = Access(connection, lambda method, url, code: None)
    cluster = KubernetesCluster(access, pace=pace, writing=gate.writing)
    try:
        yield cluster
    finally:
        await cluster.close()
        await runner.cleanup()


def now() -> float:
    return asyncio.get_running_loop().time()


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
async def test_is_done_by_the_leader_alone(change: Callable[[KubernetesCluster], Awaitable[Any]]):
    gate, server = WriteGate(), Answering()
    async with gated(gate, server) as cluster:
        with pytest.raises(NotLeaderError):
            await change(cluster)
        assert server.methods == []
        gate.open_until(now() + 60)
        await change(cluster)
        assert server.methods


async def test_an_assignment_is_made_by_the_leader_alone():
    gate = WriteGate()
    store = Store(lambda key: None, lambda: None)
    agents = Agents(store, AgentAccess(b"key"), lambda: None, gate.writing)
    with pytest.raises(NotLeaderError):
        await agents.assign(POD, "u", Assignment.model_construct())
    await agents.close()


async def test_everyone_may_read():
    server = Answering()
    async with gated(WriteGate(), server) as cluster:
        await cluster.list_runs()
        await cluster.list_pods()
    assert server.methods == ["GET", "GET"]


async def test_a_write_under_way_is_cut_off_when_the_gate_shuts_and_goes_on_when_it_stays_open():
    gate, server = WriteGate(), Answering()
    gate.open_until(now() + 60)
    server.may_answer.clear()
    async with gated(gate, server) as cluster:
        cut = asyncio.create_task(cluster.create(POD))
        await server.arrived.wait()
        gate.open_until(now() + 120)
        gate.shut()
        with pytest.raises(NotLeaderError, match="under way"):
            await cut
        server.arrived.clear()
        gate.open_until(now() + 60)
        kept = asyncio.create_task(cluster.create(POD))
        await server.arrived.wait()
        gate.open_until(now() + 120)
        server.may_answer.set()
        await kept


async def test_a_write_that_waited_for_its_turn_until_the_gate_was_shut_is_not_sent():
    gate, server, pace = WriteGate(), Answering(), Pace()
    gate.open_until(now() + 60)
    async with gated(gate, server, pace) as cluster:
        pace.hold(0.05)  # as the server's Retry-After does
        waiting = asyncio.create_task(cluster.create(POD))
        await asyncio.sleep(0)
        gate.shut()
        with pytest.raises(NotLeaderError):
            await waiting
    assert server.methods == []
