"""The operator's process, whole, against an API server of this test: how it starts and how it ends."""

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web
from conditions import until
from lease_server import LeaseServer

END_SECONDS = 10.0


class ApiServer:
    """As much of an API server as an operator without runs needs. Paths in `broken` are answered with their code."""

    def __init__(self) -> None:
        self.broken: dict[str, int] = {}
        self.watches: set[str] = set()
        self.leases = LeaseServer()
        self._cut = asyncio.Event()

    def break_now(self, path: str, code: int) -> None:
        """Refuse a path from now on, and cut all watches."""
        self.broken[path] = code
        self._cut.set()

    async def answer(self, request: web.Request) -> web.StreamResponse:
        """Discovery, empty lists, silent watches."""
        if code := self.broken.get(request.path):
            return web.json_response({"kind": "Status", "code": code, "message": "broken"}, status=code)
        if "watch" in request.query:
            return await self._watch(request)
        if request.path.endswith(("/nodes", "/pods", "/trainingruns")):
            return web.json_response({"kind": "List", "metadata": {"resourceVersion": "1"}, "items": []})
        return web.json_response(_discovery(request.path))

    async def _watch(self, request: web.Request) -> web.StreamResponse:
        stream = web.StreamResponse()
        await stream.prepare(request)
        self.watches.add(request.path)
        await self._cut.wait()
        return stream


def _discovery(path: str) -> dict[str, object]:
    def resource(name: str, kind: str) -> dict[str, object]:
        verbs = ["create", "delete", "get", "list", "patch", "update", "watch"]
        return {"name": name, "singularName": kind.lower(), "kind": kind, "namespaced": True, "verbs": verbs}

    def group(name: str, version: str) -> dict[str, object]:
        served = {"groupVersion": f"{name}/{version}", "version": version}
        return {"kind": "APIGroup", "name": name, "versions": [served], "preferredVersion": served}

    custom, extensions = group("trainyard.dev", "v1alpha1"), group("apiextensions.k8s.io", "v1")
    answers: dict[str, dict[str, object]] = {
        "/api": {"versions": ["v1"]},
        "/api/v1": {
            "resources": [resource("pods", "Pod"), resource("events", "Event"), resource("namespaces", "Namespace")]
        },
        "/apis": {"groups": [custom, extensions]},
        "/apis/trainyard.dev": custom,
        "/apis/trainyard.dev/v1alpha1": {"resources": [resource("trainingruns", "TrainingRun")]},
        "/apis/apiextensions.k8s.io": extensions,
        "/apis/apiextensions.k8s.io/v1": {
            "resources": [resource("customresourcedefinitions", "CustomResourceDefinition")]
        },
    }
    return answers[path]


class Operator:
    """A running `trainyard-operator`."""

    def __init__(self, process: asyncio.subprocess.Process, port: int, log: Path) -> None:
        self.process = process
        self._url = f"http://127.0.0.1:{port}"
        self._log = log

    async def page(self, path: str) -> tuple[int, str]:
        """Code and text of one of its pages; 0 before it answers."""
        try:
            async with aiohttp.ClientSession() as session, session.get(self._url + path) as answer:
                return answer.status, await answer.text()
        except aiohttp.ClientConnectionError:
            return 0, ""

    async def reaches(self, path: str, code: int) -> str:
        """The text of a page once it answers with that code."""
        async with asyncio.timeout(30):
            while True:
                answered, text = await self.page(path)
                if answered == code:
                    return text
                assert self.process.returncode is None, self._log.read_text()
                await asyncio.sleep(0.05)

    async def end(self) -> int:
        """Its exit code, which must come soon."""
        return await asyncio.wait_for(self.process.wait(), END_SECONDS)

    def events(self) -> list[dict[str, str]]:
        """What it has logged."""
        return [json.loads(line) for line in self._log.read_text().splitlines()]


@asynccontextmanager
async def operating(server: ApiServer, tmp_path: Path, port: int) -> AsyncIterator[Operator]:
    app = web.Application()
    server.leases.add_to(app)
    app.router.add_route("*", "/{path:.*}", server.answer)
    runner = web.AppRunner(app, shutdown_timeout=0.5, handler_cancellation=True)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    named = {"name": "t", "cluster": {"server": f"http://127.0.0.1:{runner.addresses[0][1]}"}}
    config = {"clusters": [named], "users": [{"name": "t", "user": {"token": "t"}}], "current-context": "t"}
    config["contexts"] = [{"name": "t", "context": {"cluster": "t", "user": "t"}}]
    (tmp_path / "kubeconfig").write_text(json.dumps(config))
    (tmp_path / "key").write_text("0123456789abcdef")
    log = tmp_path / "log"
    flags = ["--trainer-image", "t", "--key-file", str(tmp_path / "key"), "--port", str(port)]
    start = "import sys; sys.modules['kubernetes'] = None; from trainyard_operator.runtime.entry import main; main()"
    with log.open("w") as to:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-c",
            start,
            *flags,
            env=os.environ | {"KUBECONFIG": str(tmp_path / "kubeconfig")},
            stderr=to,
        )
    try:
        yield Operator(process, port, log)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
        await runner.cleanup()


@pytest.fixture
def port(unused_tcp_port: int) -> int:
    return unused_tcp_port


async def started(server: ApiServer, operator: Operator) -> None:
    await operator.reaches("/readyz", 200)
    await until(lambda: len(server.watches) == 2, "both watches are open", 30)


async def test_it_ends_well_and_soon_when_it_is_told_to(tmp_path: Path, port: int):
    server = ApiServer()
    async with operating(server, tmp_path, port) as operator:
        await started(server, operator)
        assert 'rest_client_requests_total{code="200",method="GET"}' in (await operator.page("/metrics"))[1]
        operator.process.send_signal(signal.SIGTERM)
        assert await operator.end() == 0
        assert [event["event"] for event in operator.events()] == ["ready", "leading", "stopping"]


async def test_another_leads_when_the_leader_is_told_to_end(
    tmp_path_factory: pytest.TempPathFactory, unused_tcp_port_factory: Callable[[], int]
):
    server = ApiServer()
    first, second = (operating(server, tmp_path_factory.mktemp(name), unused_tcp_port_factory()) for name in "ab")
    leads = 'leader_election_master_status{name="trainyard"} 1.0'
    async with first as leader:
        await until(lambda: server.leases.holder and not server.leases.watches, "the first one leads", 30)
        held_by = server.leases.holder
        async with second as follower:
            await follower.reaches("/readyz", 200)
            await until(lambda: server.leases.watches == 1, "the second one watches the Lease", 30)
            assert leads in (await leader.page("/metrics"))[1]
            assert leads not in (await follower.page("/metrics"))[1]
            leader.process.send_signal(signal.SIGTERM)
            await until(lambda: server.leases.holder not in ("", held_by), "the second one leads")
            assert leads in (await follower.page("/metrics"))[1]
            assert await leader.end() == 0


async def test_a_leader_whose_lease_another_has_taken_ends(tmp_path: Path, port: int):
    server = ApiServer()
    async with operating(server, tmp_path, port) as operator:
        await started(server, operator)
        await until(lambda: server.leases.holder, "it leads", 30)
        server.leases.usurp("another")
        assert await operator.end() == 1
        assert operator.events()[-1]["why"] == "another holds the Lease"
        assert server.leases.holder == "another"


async def test_it_waits_for_the_crd_and_is_not_ready_meanwhile(tmp_path: Path, port: int):
    server = ApiServer()
    server.broken["/apis/trainyard.dev/v1alpha1/trainingruns"] = 404
    async with operating(server, tmp_path, port) as operator:
        assert "first lists" in await operator.reaches("/readyz", 503)
        await until(lambda: operator.events(), "it says what it waits for", 30)
        assert "is the CRD trainingruns.trainyard.dev installed?" in operator.events()[0]["error"]
        server.broken.clear()
        await started(server, operator)


BROKEN = {
    "the CRD has been deleted": ("/apis/trainyard.dev/v1alpha1/trainingruns", 404),
    "the credentials are refused": ("/api/v1/pods", 401),
}


@pytest.mark.parametrize(("path", "code"), BROKEN.values(), ids=BROKEN)
async def test_the_end_of_a_watch_is_the_end_of_the_process(path: str, code: int, tmp_path: Path, port: int):
    server = ApiServer()
    async with operating(server, tmp_path, port) as operator:
        await started(server, operator)
        server.break_now(path, code)
        assert await operator.end() == 1
        assert operator.events()[-1]["event"] == "operator ended"
