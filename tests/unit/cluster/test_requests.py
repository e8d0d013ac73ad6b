"""How the Kubernetes client behaves towards an API server that is slow, overloaded or wrong: over real HTTP."""

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import kopf
import pytest
from aiohttp import web
from builders import manifest
from trainyard_api.run import TrainingRun
from trainyard_operator.cluster import access as access_module
from trainyard_operator.cluster.access import Access
from trainyard_operator.cluster.kubernetes import ApiError, KubernetesCluster
from trainyard_operator.cluster.protocol import ConflictError, GoneError
from yarl import URL

Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]
POD = {"kind": "Pod", "metadata": {"namespace": "team", "name": "p", "uid": "u", "ownerReferences": [{"uid": "run"}]}}


@asynccontextmanager
async def answering(
    answer: Answer, tmp_path: Path, token: str = "one"
) -> AsyncIterator[tuple[KubernetesCluster, list[tuple[str, str]], list[web.Request]]]:
    """A cluster whose API server is `answer`; with what was counted (method, code) and the requests that arrived."""
    asked: list[web.Request] = []
    counted: list[tuple[str, str]] = []

    async def handle(request: web.Request) -> web.StreamResponse:
        asked.append(request)
        await request.read()
        return await answer(request)

    def count(method: str, url: URL, code: str) -> None:
        counted.append((method, code))

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", handle)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    token_file = tmp_path / "token"
    token_file.write_text(token)
    connection = kopf.ConnectionInfo(server=f"http://127.0.0.1:{runner.addresses[0][1]}")
    cluster = KubernetesCluster(Access(connection, count, token_file))
    try:
        yield cluster, counted, asked
    finally:
        await cluster.close()
        await runner.cleanup()


def status(code: int, reason: str, headers: dict[str, str] | None = None) -> web.Response:
    return web.json_response({"kind": "Status", "reason": reason, "message": "no"}, status=code, headers=headers)


async def test_an_overloaded_server_is_asked_again_when_it_says(tmp_path: Path):
    codes = iter((429, 503, 200))

    async def answer(request: web.Request) -> web.Response:
        code = next(codes)
        return (
            web.json_response({"items": [], "metadata": {}}) if code == 200 else status(code, "", {"Retry-After": "1"})
        )

    async with answering(answer, tmp_path) as (cluster, counted, _):
        assert await cluster.list_pods() == []
    assert counted == [("GET", "429"), ("GET", "503"), ("GET", "200")]


async def test_a_list_is_read_page_by_page_and_its_items_say_what_they_are(tmp_path: Path):
    async def answer(request: web.Request) -> web.Response:
        page = int(request.query.get("continue", 0))
        following = {"continue": str(page + 1)} if page < 2 else {}
        return web.json_response({"items": [{"metadata": {"name": f"p{page}"}}], "metadata": following})

    async with answering(answer, tmp_path) as (cluster, _, asked):
        pods = await cluster.list_pods()
    assert [(pod["kind"], pod["metadata"]["name"]) for pod in pods] == [("Pod", "p0"), ("Pod", "p1"), ("Pod", "p2")]
    assert all(request.query["labelSelector"] == "trainyard.dev/run" for request in asked)


async def test_a_token_that_has_rotated_is_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    async def answer(request: web.Request) -> web.Response:
        return web.json_response({"items": [], "metadata": {}})

    monkeypatch.setattr(access_module, "TOKEN_SECONDS", 0)
    async with answering(answer, tmp_path, token="one") as (cluster, _, asked):
        await cluster.list_pods()
        (tmp_path / "token").write_text("two\n")
        await cluster.list_pods()
    assert [request.headers["Authorization"] for request in asked] == ["Bearer one", "Bearer two"]


async def test_a_connection_that_breaks_is_counted_as_an_error(tmp_path: Path):
    async def answer(request: web.Request) -> web.Response:
        assert request.transport
        request.transport.abort()
        return web.Response()

    async with answering(answer, tmp_path) as (cluster, counted, _):
        with pytest.raises(access_module.aiohttp.ClientError):
            await cluster.create(POD)
    assert counted == [("POST", "<error>")]


REFUSALS = {
    "a conflict is a ConflictError": (status, 409, "Conflict", ConflictError),
    "what isn't there is a GoneError": (status, 404, "NotFound", GoneError),
    "any other refusal is an ApiError": (status, 422, "Invalid", ApiError),
}


@pytest.mark.parametrize(("make", "code", "reason", "error"), REFUSALS.values(), ids=REFUSALS)
async def test_refusals(make, code: int, reason: str, error: type[Exception], tmp_path: Path):
    async def answer(request: web.Request) -> web.Response:
        return make(code, reason)

    run = {"metadata": {"namespace": "team", "name": "r", "uid": "u", "resourceVersion": "1"}}
    async with answering(answer, tmp_path) as (cluster, _, _):
        with pytest.raises(error):
            await cluster.write_status(run, {})


async def test_a_page_of_a_proxy_is_an_error_with_its_text(tmp_path: Path):
    async def answer(request: web.Request) -> web.Response:
        return web.Response(status=502, text="<h1>bad gateway</h1>")

    async with answering(answer, tmp_path) as (cluster, _, _):
        with pytest.raises(ApiError, match="bad gateway"):
            await cluster.list_pods()


async def test_a_secret_that_exists_is_taken_for_ours_without_reading_it(tmp_path: Path):
    async def answer(request: web.Request) -> web.Response:
        return status(409, "AlreadyExists")

    async with answering(answer, tmp_path) as (cluster, counted, _):
        await cluster.create({"kind": "Secret", "metadata": {"namespace": "team", "name": "run-1234abcd"}})
    assert counted == [("POST", "409")]


async def test_an_event_that_is_refused_disturbs_nobody(tmp_path: Path):
    async def answer(request: web.Request) -> web.Response:
        return status(403, "Forbidden")

    run = {"metadata": {"namespace": "team", "name": "r", "uid": "u", "resourceVersion": "1"}}
    async with answering(answer, tmp_path) as (cluster, counted, _):
        await cluster.post_event(run, "Normal", "Completed", "done")
    assert counted == [("POST", "403")]


async def test_a_deletion_names_the_uid_and_the_grace(tmp_path: Path):
    bodies = []

    async def answer(request: web.Request) -> web.Response:
        bodies.append(json.loads(await request.text()))
        return web.json_response({})

    async with answering(answer, tmp_path) as (cluster, _, _):
        await cluster.delete_pod(POD, None)
        await cluster.delete_pod(POD, 0)
    assert [body["preconditions"] for body in bodies] == [{"uid": "u"}, {"uid": "u"}]
    assert [body.get("gracePeriodSeconds") for body in bodies] == [None, 0]


async def test_a_run_is_deleted_as_it_was_seen_and_one_that_is_gone_is_no_error(tmp_path: Path):
    bodies = []
    codes = iter((200, 404, 409))

    async def answer(request: web.Request) -> web.Response:
        bodies.append(json.loads(await request.text()))
        return status(next(codes), "")

    run = TrainingRun.read_stored(manifest())
    async with answering(answer, tmp_path) as (cluster, _, asked):
        await cluster.delete_run(run)
        await cluster.delete_run(run)
        with pytest.raises(ConflictError):
            await cluster.delete_run(run)
    assert {request.path for request in asked} == {"/apis/trainyard.dev/v1alpha1/namespaces/team/trainingruns/tiny"}
    assert bodies[0]["preconditions"] == {"uid": run.metadata.uid, "resourceVersion": "7"}
