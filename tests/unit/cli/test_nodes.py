"""`trainyard nodes` and `nodes forgive`: what is listed, and what is asked of an API server of this test."""

import asyncio
import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from builders import NOW, a_run, ago
from trainyard_api.names import ANNOTATION_FORGIVEN
from trainyard_api.status import Reason
from trainyard_operator.cli import nodes
from trainyard_operator.cli.main import read_options
from trainyard_operator.decide.observation import format_time
from trainyard_operator.decide.suspects import read_forgiven
from user_access import reached_by

RUNS = "/apis/trainyard.dev/v1alpha1/trainingruns"
A_DAY = 86_400


def excluded(
    node: str, now: datetime = NOW, since: float = 600, left: float = A_DAY, message: str = "exit code 42"
) -> dict[str, Any]:
    """What a run says of a node since so many seconds, and for so many more."""
    time, until = (format_time(now + timedelta(seconds=seconds)) for seconds in (-since, left))
    return {"node": node, "cause": Reason.PROCESS_FAILED, "message": message, "time": time, "until": until}


def run(name: str, *said: dict[str, Any], namespace: str = "team", **forgiven: str) -> dict[str, Any]:
    """A run that says this of nodes, with what was forgiven it and when; `node_b` is node-b."""
    manifest = a_run().run
    manifest["metadata"] |= {"name": name, "namespace": namespace}
    manifest["status"] = {"phase": "Running", "reason": "Training", "excludedNodes": list(said)}
    if forgiven:
        times = {node.replace("_", "-"): time for node, time in forgiven.items()}
        manifest["metadata"]["annotations"] = {ANNOTATION_FORGIVEN: json.dumps(times)}
    return manifest


LISTED = {
    "a node that is kept off": (run("r", excluded("node-b")), ["node-b"]),
    "not one for which the time is over": (run("r", excluded("node-b", left=0), excluded("node-c")), ["node-c"]),
    "not one that was forgiven": (run("r", excluded("node-b"), node_b=format_time(ago(60))), []),
    "one that was, and has failed again": (
        run("r", excluded("node-b", since=10), node_b=format_time(ago(60))),
        ["node-b"],
    ),
    "nothing of a run without suspects": (run("r"), []),
    "nothing of a run that the operator has not seen": (a_run().run, []),
}


@pytest.mark.parametrize("what", LISTED)
def test_the_ledger_lists(what: str) -> None:
    manifest, expected = LISTED[what]
    assert [each.excluded.node for each in nodes.ledger([manifest], NOW)] == expected


def test_entries_are_lines_by_node_and_run() -> None:
    long = "recovery.rules[0]: pod b-base-1-2: exit code 42\n  last words"
    runs = [
        run("b", excluded("node-b", message=long), excluded("node-a")),
        run("a", excluded("node-b"), namespace="other"),
    ]
    assert nodes.render(nodes.ledger(runs, NOW)).splitlines() == [
        "NODE     CAUSE           UNTIL                      RUN       MESSAGE",
        "node-a   ProcessFailed   2026-11-25T12:00:00.000Z   team/b    exit code 42",
        "node-b   ProcessFailed   2026-11-25T12:00:00.000Z   other/a   exit code 42",
        "node-b   ProcessFailed   2026-11-25T12:00:00.000Z   team/b    "
        "recovery.rules[0]: pod b-base-1-2: exit code 42 last words",
    ]


def test_a_patch_forgives_one_node_more_and_nothing_else() -> None:
    before = format_time(ago(60))
    [entry] = nodes.ledger([run("r", excluded("node-b"), node_a=before)], NOW)
    patch = nodes.forgiving(entry, NOW)
    value = json.dumps({"node-a": before, "node-b": format_time(NOW)})
    assert patch == {"metadata": {"annotations": {ANNOTATION_FORGIVEN: value}}}


def test_a_clock_that_is_behind_forgives_all_the_same() -> None:
    manifest = run("r", excluded("node-b", since=-120))
    [entry] = nodes.ledger([manifest], NOW)
    manifest["metadata"] |= nodes.forgiving(entry, NOW)["metadata"]
    assert nodes.ledger([manifest], NOW) == []


class ApiServer:
    """Runs, one a page. Its user may do what needs none of the rights that are `forbidden`."""

    def __init__(self) -> None:
        now = datetime.now(UTC)
        self.runs = [
            run("one", excluded("node-a", now), excluded("node-b", now)),
            run("two", excluded("node-b", now)),
            run("far", excluded("node-b", now), namespace="other"),
            run("over", excluded("node-b", now, left=-1)),
        ]
        self.patched: list[str] = []
        self.forbidden: list[str] = []

    async def answer(self, request: web.Request) -> web.Response:
        if f"{request.method} {request.path}" in self.forbidden:
            return web.json_response({"kind": "Status", "message": "runs is forbidden"}, status=403)
        if request.method == "PATCH":
            assert request.content_type == "application/merge-patch+json"
            [changed] = [each for each in self.runs if path_of(each) == request.path]
            given = json.loads(await request.text())["metadata"]["annotations"]
            changed["metadata"]["annotations"] = changed["metadata"].get("annotations", {}) | given
            self.patched.append(changed["metadata"]["name"])
            return web.json_response(changed)
        found = [each for each in self.runs if request.path in (RUNS, path_of(each).rpartition("/")[0])]
        page = int(request.query.get("continue", 0))
        following = {"continue": str(page + 1)} if page + 1 < len(found) else {}
        return web.json_response({"metadata": following, "items": found[page : page + 1]})


def path_of(manifest: dict[str, Any]) -> str:
    metadata = manifest["metadata"]
    return RUNS.replace("trainingruns", f"namespaces/{metadata['namespace']}/trainingruns/{metadata['name']}")


@pytest.fixture
async def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[ApiServer]:
    """A server that the current context of KUBECONFIG leads to, in the namespace `team`."""
    server = ApiServer()
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "kubeconfig"))
    async with reached_by(tmp_path / "kubeconfig", server.answer):
        yield server


async def trainyard(*arguments: str) -> int:
    """The exit code of a verb."""
    options = read_options(list(arguments))
    verb = getattr(nodes, options.verb.partition(":")[2])
    return int(await asyncio.to_thread(verb, options))


ALL = [["node-a", "team/one"], ["node-b", "other/far"], ["node-b", "team/one"], ["node-b", "team/two"]]
OWN = [ALL[0], *ALL[2:]]
SEEN: dict[str, tuple[list[str], list[str], list[list[str]], str]] = {
    "of all namespaces": ([], [], ALL, ""),
    "of the one that is named": (["-n", "other"], [], ALL[1:2], ""),
    "of one's own if one may see no more": ([], [f"GET {RUNS}"], OWN, "these are team's"),
    "of none where no node is kept off": (["-n", "calm"], [], [], "no run of the cluster keeps off a node"),
}


@pytest.mark.parametrize("what", SEEN)
async def test_listed_are_the_runs(what: str, server: ApiServer, capsys: pytest.CaptureFixture[str]) -> None:
    arguments, server.forbidden, expected, note = SEEN[what]
    assert await trainyard("nodes", *arguments) == 0
    said = capsys.readouterr()
    rows = [line.split() for line in said.out.splitlines()[1:]]
    assert [[row[0], row[3]] for row in rows] == expected
    assert note in said.err
    assert bool(note) == bool(said.err)


async def test_a_node_is_forgiven_in_each_run_that_excludes_it(
    server: ApiServer, capsys: pytest.CaptureFixture[str]
) -> None:
    assert await trainyard("nodes", "forgive", "node-b") == 0
    assert capsys.readouterr().out.splitlines() == [
        f"run {name} forgives node-b" for name in ("other/far", "team/one", "team/two")
    ]
    assert server.patched == ["far", "one", "two"]
    assert [list(read_forgiven(each["metadata"].get("annotations", {}))) for each in server.runs] == [
        *(3 * [["node-b"]]),
        [],
    ]
    assert await trainyard("nodes", "forgive", "node-b") == 1
    assert "no run keeps off node-b" in capsys.readouterr().err
    assert await trainyard("nodes") == 0
    assert "node-b" not in capsys.readouterr().out


@pytest.mark.parametrize("arguments", [("-n", "other", "forgive", "node-b"), ("forgive", "node-b", "-n", "other")])
async def test_in_one_namespace_if_that_is_asked_for(arguments: tuple[str, ...], server: ApiServer) -> None:
    assert await trainyard("nodes", *arguments) == 0
    assert server.patched == ["far"]


async def test_a_run_that_one_may_not_patch_is_named_and_the_others_forgive(
    server: ApiServer, capsys: pytest.CaptureFixture[str]
) -> None:
    server.forbidden = [f"PATCH {path_of(server.runs[2])}"]
    assert await trainyard("nodes", "forgive", "node-b") == 1
    assert "run other/far still keeps off node-b" in capsys.readouterr().err
    assert server.patched == ["one", "two"]


async def test_without_a_cluster_there_is_no_ledger(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("KUBECONFIG", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert await trainyard("nodes") == 2
    assert "this machine is one node, so its runs have no ledger, and no cluster" in capsys.readouterr().err
