"""`trainyard suspend|resume|delete` against an API server of this test, and on runs of this machine."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from builders import a_run, done
from builders import pod as live_pod
from trainyard_api.run import TrainingRun
from trainyard_operator.cli import life_cycle
from trainyard_operator.cli.main import read_options
from trainyard_operator.cli.taking_up import made_by, new_run
from trainyard_operator.cluster.home import Home
from user_access import reached_by

RUN = "/apis/trainyard.dev/v1alpha1/namespaces/team/trainingruns/tiny"
PODS = "/api/v1/namespaces/team/pods"


class ApiServer:
    """One run and its pods. A pod that is made ends at once, as `outcome` says."""

    def __init__(self) -> None:
        self.run: dict[str, Any] | None = a_run().run
        self.pods = [done(0), done(1)]
        for pod in self.pods:
            pod["spec"]["containers"] = [{"name": "trainer", "image": "trainer:7"}]
        self.leaving: list[dict[str, Any]] = []
        self.made: list[dict[str, Any]] = []
        self.asked: list[str] = []
        self.outcome: dict[str, Any] = {"phase": "Succeeded"}

    async def answer(self, request: web.Request) -> web.Response:
        self.asked.append(f"{request.method} {request.path.rpartition('/')[2]}")
        given = json.loads(await request.text() or "null")
        match request.method, request.path:
            case _, path if path == RUN and self.run is None:
                return web.json_response({"kind": "Status", "message": 'trainingruns "tiny" not found'}, status=404)
            case "PATCH", path if path == RUN:
                assert self.run
                assert request.content_type == "application/merge-patch+json"
                self.run["spec"] |= given["spec"]
            case "DELETE", path if path == RUN:
                self.run = None
            case "GET", path if path == RUN:
                return web.json_response(self.run)
            case "POST", path if path == PODS:
                self.made.append(given)
            case "GET", path if path == PODS:
                assert request.query["labelSelector"] == "trainyard.dev/run=tiny"
                leaving, self.leaving = self.leaving, []
                return web.json_response({"items": self.pods + leaving})
            case "GET", _:
                return web.json_response({"status": self.outcome})
        return web.json_response({})


@pytest.fixture
async def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[ApiServer]:
    """A server that the current context of KUBECONFIG leads to, in the namespace `team`."""
    server = ApiServer()
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "kubeconfig"))
    monkeypatch.chdir(tmp_path)
    async with reached_by(tmp_path / "kubeconfig", server.answer):
        yield server


async def trainyard(*arguments: str) -> int:
    """The exit code of a verb."""
    options = read_options(list(arguments))
    verb = getattr(life_cycle, options.verb.partition(":")[2])
    return int(await asyncio.to_thread(verb, options))


async def test_suspend_and_resume_change_one_field_of_the_spec(server: ApiServer) -> None:
    assert await trainyard("suspend", "tiny") == 0
    assert server.run
    assert server.run["spec"] == {**a_run().run["spec"], "suspend": True}
    assert await trainyard("resume", "tiny", "-n", "team") == 0
    assert server.run["spec"]["suspend"] is False


async def test_a_run_that_is_nowhere_is_said_in_the_api_servers_words(
    server: ApiServer, capsys: pytest.CaptureFixture[str]
) -> None:
    server.run = None
    assert await trainyard("suspend", "tiny") == 2
    assert 'trainingruns "tiny" not found' in capsys.readouterr().err


async def test_deleting_a_run_keeps_what_it_made_and_says_where(
    server: ApiServer, capsys: pytest.CaptureFixture[str]
) -> None:
    assert await trainyard("delete", "tiny") == 0
    assert server.asked == ["GET tiny", "DELETE tiny"]
    assert capsys.readouterr().out == "run team/tiny is deleted; file:///storage/team/tiny stays\n"


async def test_artifacts_are_deleted_by_a_pod_that_sees_the_claim_and_then_the_run_is(server: ApiServer) -> None:
    assert server.run
    server.run["status"] = {"phase": "Succeeded", "reason": "Completed"}
    assert await trainyard("delete", "tiny", "--artifacts") == 0
    assert server.asked[2:] == ["POST pods", "GET tiny-discard", "DELETE tiny-discard", "DELETE tiny"]
    [pod] = server.made
    [container] = pod["spec"]["containers"]
    assert container["image"] == "trainer:7"
    assert container["command"] == ["trainyard-trainer", "discard", "file:///storage/team/tiny"]
    assert {"name": "storage", "mountPath": "/storage"} in container["volumeMounts"]
    assert {"name": "storage", "persistentVolumeClaim": {"claimName": "training"}} in pod["spec"]["volumes"]


async def test_in_a_bucket_they_are_deleted_with_the_runs_own_credentials(server: ApiServer) -> None:
    server.run = a_run(storage={"uri": "s3://bucket/prefix", "secretName": "keys"}, image="trainer:8").run
    server.run["status"] = {"phase": "Suspended", "reason": "Suspended"}
    assert await trainyard("delete", "tiny", "--artifacts") == 0
    [container] = server.made[0]["spec"]["containers"]
    assert (container["image"], container["command"][2]) == ("trainer:8", "s3://bucket/prefix/team/tiny")
    assert container["envFrom"] == [{"secretRef": {"name": "keys"}}]


async def test_artifacts_that_can_not_be_deleted_keep_their_run(
    server: ApiServer, capsys: pytest.CaptureFixture[str]
) -> None:
    assert server.run
    server.run["status"] = {"phase": "Failed", "reason": "PermanentError"}
    ended = {"state": {"terminated": {"exitCode": 30, "message": "file:///storage/team/tiny: Permission denied\n"}}}
    server.outcome = {"phase": "Failed", "containerStatuses": [{"name": "discard", **ended}]}
    assert await trainyard("delete", "tiny", "--artifacts") == 2
    assert server.run
    assert "could not be deleted, and the run was not: file:///storage/team/tiny: Perm" in capsys.readouterr().err


async def test_artifacts_of_a_run_that_still_writes_are_not_deleted(
    server: ApiServer, capsys: pytest.CaptureFixture[str]
) -> None:
    assert server.run
    server.run["status"] = {"phase": "Recovering", "reason": "Hung"}
    assert await trainyard("delete", "tiny", "--artifacts") == 2
    assert "run tiny is Recovering and writes; `trainyard suspend tiny` stops it" in capsys.readouterr().err
    assert (server.run is None, server.made) == (False, [])


async def test_pods_that_are_still_leaving_are_waited_for(server: ApiServer) -> None:
    assert server.run
    server.run["status"] = {"phase": "Failed", "reason": "DeadlineExceeded"}
    server.leaving = [live_pod(0)]
    assert await trainyard("delete", "tiny", "--artifacts") == 0
    assert server.asked[1:4] == ["GET pods", "GET pods", "POST pods"]


def kept_here(home: Home) -> TrainingRun:
    """A run of this machine that has made something."""
    run = TrainingRun.read_stored(a_run().run)
    home.write_run(new_run(run))
    made = made_by(home, run) / "base" / "artifact.json"
    made.parent.mkdir(parents=True)
    made.touch()
    return run


async def test_a_run_of_this_machine_is_meant_before_one_of_the_cluster(
    server: ApiServer, capsys: pytest.CaptureFixture[str]
) -> None:
    home = Home(Path(".trainyard"))
    run = kept_here(home)
    assert await trainyard("suspend", "tiny") == 2
    assert "Ctrl-C" in capsys.readouterr().err
    with home.held(*run.key):
        assert await trainyard("delete", "tiny") == 2
    assert "stop that one first" in capsys.readouterr().err
    assert await trainyard("delete", "tiny") == 0
    assert capsys.readouterr().out.endswith(f"{made_by(home, run)} stays\n")
    assert home.runs() == []
    assert made_by(home, run).exists()
    assert server.asked == []


async def test_a_run_of_this_machine_is_deleted_with_what_it_made_if_that_is_asked_for(
    server: ApiServer, capsys: pytest.CaptureFixture[str]
) -> None:
    home = Home(Path(".trainyard"))
    run = kept_here(home)
    assert await trainyard("delete", "tiny", "--artifacts") == 0
    assert f"deleting {made_by(home, run)}" in capsys.readouterr().out
    assert not made_by(home, run).exists()
