"""The local cluster against real processes: what it shows of a pod is what a kubelet would show."""

import asyncio
import socket
import sys
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from cluster_contract import ClusterContract, Subject
from conditions import until
from trainyard_api.names import AGENT_PORT, API_VERSION, KIND, LABEL_ATTEMPT, LABEL_RANK, LABEL_RUN, LABEL_STAGE
from trainyard_api.run import TrainingRun
from trainyard_operator.cluster import processes
from trainyard_operator.cluster.agent_access import agent_url
from trainyard_operator.cluster.home import HeldError, Home
from trainyard_operator.cluster.local import LocalCluster
from trainyard_operator.runtime.store import Store

KEY = ("default", "tiny")
RUN = {
    "apiVersion": API_VERSION,
    "kind": KIND,
    "metadata": {"name": "tiny", "namespace": "default", "uid": "11111111-0000-0000-0000-000000000000"},
    "spec": {
        "storage": {"claimName": "training"},
        "stages": [{"name": "corpus", "prepare": {"sources": [{"builtin": "python-docs"}]}}],
    },
}


class WatchedStore(Store):
    """A store that remembers all that it was told."""

    def __init__(self) -> None:
        super().__init__(lambda key: None, lambda: datetime.now(UTC))
        self.received: list[dict[str, Any]] = []

    def put(self, manifest: dict[str, Any]) -> None:
        self.received.append(manifest)
        super().put(manifest)


@pytest.fixture
def store() -> WatchedStore:
    return WatchedStore()


@pytest.fixture
async def cluster(tmp_path: Path, store: WatchedStore) -> AsyncIterator[LocalCluster]:
    cluster = LocalCluster(Home(tmp_path), store)
    await cluster.open_run(RUN)
    yield cluster
    await cluster.close(grace_seconds=0)
    assert processes.living(f"{RUN['metadata']['uid']}/") == []


def pod(script: str, number: int = 0, uid: str = RUN["metadata"]["uid"], **spec: Any) -> dict[str, Any]:
    """A pod that runs a shell script."""
    labels = {LABEL_RUN: "tiny", LABEL_STAGE: "corpus", LABEL_RANK: str(number), LABEL_ATTEMPT: "1"}
    metadata = {"name": f"tiny-corpus-{number}-1", "namespace": "default", "labels": labels}
    container = {"name": "trainer", "command": ["/bin/sh", "-c", script], **spec.pop("container", {})}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": metadata | {"ownerReferences": [{"kind": KIND, "name": "tiny", "uid": uid}]},
        "spec": {"containers": [container], **spec},
    }


class TestLocalCluster(ClusterContract):
    @pytest.fixture
    def subject(self, cluster: LocalCluster, store: WatchedStore) -> Subject:
        def named(name: str) -> dict[str, Any]:
            made = pod("exec sleep 60")
            return made | {"metadata": made["metadata"] | {"name": name}}

        async def run() -> dict[str, Any]:
            [found] = await cluster.list_runs()
            return found

        async def gone_run() -> dict[str, Any]:
            found = await run()
            return {**found, "metadata": {**found["metadata"], "uid": "earlier"}}

        return Subject(cluster, store, named, run, gone_run)


def shown(store: WatchedStore, number: int = 0) -> dict[str, Any]:
    """The status that the store has of a pod; empty once the pod is gone."""
    name = f"tiny-corpus-{number}-1"
    return next((pod["status"] for pod in store.pods(KEY) if pod["metadata"]["name"] == name), {})


def state(store: WatchedStore, number: int = 0) -> dict[str, Any]:
    """The container's state."""
    status = shown(store, number)
    return status["containerStatuses"][0]["state"] if status else {}


async def ended(store: WatchedStore, number: int = 0) -> dict[str, Any]:
    """The container's terminated state, once there."""
    await until(lambda: "terminated" in state(store, number), "the pod's end")
    return state(store, number)["terminated"]


async def test_a_pod_that_runs_has_an_address_a_node_and_is_ready(cluster: LocalCluster, store: WatchedStore) -> None:
    made = await cluster.create(pod("sleep 60"))
    assert shown(store)["phase"] == "Running"
    assert made["spec"]["nodeName"] == "local"
    assert state(store)["running"]["startedAt"].endswith("Z")
    assert {c["type"]: c["status"] for c in shown(store)["conditions"]}["Ready"] == "True"
    assert agent_url(made) == f"http://{shown(store)['podIP']}:{AGENT_PORT}"


CODES = {
    "success is phase Succeeded": ("exit 0", "Succeeded", 0, "Completed"),
    "a failure is phase Failed with the exit code": ("exit 30", "Failed", 30, "Error"),
    "an end by a signal is 128 and its number": ("kill -KILL $$", "Failed", 137, "Error"),
}


@pytest.mark.parametrize(("script", "phase", "code", "reason"), CODES.values(), ids=CODES)
async def test_the_end_of_a_pod(
    cluster: LocalCluster, store: WatchedStore, script: str, phase: str, code: int, reason: str
) -> None:
    await cluster.create(pod(script))
    end = await ended(store)
    assert (shown(store)["phase"], end["exitCode"], end["reason"]) == (phase, code, reason)
    assert datetime.fromisoformat(end["finishedAt"]) >= datetime.fromisoformat(end["startedAt"])


async def test_a_command_that_is_not_there_is_a_pod_that_failed_to_start(
    cluster: LocalCluster, store: WatchedStore
) -> None:
    await cluster.create(pod("", container={"command": ["no-such-program"]}))
    end = await ended(store)
    assert (end["exitCode"], end["reason"]) == (128, "StartError")
    assert "no-such-program" in end["message"]


async def test_the_termination_log_is_the_message_of_the_end(cluster: LocalCluster, store: WatchedStore) -> None:
    await cluster.create(pod("echo disk full > $TRAINYARD_TERMINATION_LOG; exit 10"))
    assert (await ended(store))["message"] == "disk full\n"


async def test_what_a_pod_prints_is_in_its_log(cluster: LocalCluster, store: WatchedStore, tmp_path: Path) -> None:
    await cluster.create(pod("echo out; echo err >&2"))
    await ended(store)
    assert (tmp_path / "runs/default/tiny/logs/tiny-corpus-0-1.log").read_text() == "out\nerr\n"


async def test_deleting_asks_with_sigterm_and_the_pod_goes_after_its_end_has_shown(
    cluster: LocalCluster, store: WatchedStore, tmp_path: Path
) -> None:
    made = await cluster.create(pod("trap 'exit 20' TERM; echo up; while :; do sleep 0.05; done"))
    log = tmp_path / "runs/default/tiny/logs/tiny-corpus-0-1.log"
    await until(lambda: log.read_text() == "up\n", "the trap")
    await cluster.delete_pod(made, None)
    assert store.pods(KEY)[0]["metadata"]["deletionTimestamp"]
    await until(lambda: not store.pods(KEY), "the pod's going")
    last = store.received[-1]["status"]["containerStatuses"][0]["state"]
    assert last["terminated"]["exitCode"] == 20


async def test_a_pod_that_ignores_sigterm_is_killed_after_its_grace(cluster: LocalCluster, store: WatchedStore) -> None:
    made = await cluster.create(pod("trap '' TERM; while :; do sleep 0.05; done"))
    await cluster.delete_pod(made, 1)
    await until(lambda: not store.pods(KEY), "the pod's going", seconds=10)


async def test_a_second_deletion_may_shorten_the_grace(cluster: LocalCluster, store: WatchedStore) -> None:
    made = await cluster.create(pod("trap '' TERM; while :; do sleep 0.05; done"))
    await cluster.delete_pod(made, 600)
    await cluster.delete_pod(made, 0)
    await until(lambda: not store.pods(KEY), "the pod's going", seconds=10)


async def test_no_process_of_a_pod_outlives_it_whatever_session_it_moved_to(
    cluster: LocalCluster, store: WatchedStore
) -> None:
    await cluster.create(pod("setsid sleep 600 & sleep 600 & sleep 0.2; exit 0"))
    owner = f"{RUN['metadata']['uid']}/"
    await until(lambda: len(processes.living(owner)) >= 3, "the children")
    await ended(store)
    assert processes.living(owner) == []


async def test_pods_have_addresses_of_their_own(cluster: LocalCluster, store: WatchedStore) -> None:
    for number in range(3):
        await cluster.create(pod("sleep 60", number))
    addresses = {shown(store, number)["podIP"] for number in range(3)}
    assert len(addresses) == 3
    assert all(address.startswith("127.") for address in addresses)


def test_an_address_where_somebody_listens_is_not_free() -> None:
    numbers = iter([1, 1, 1, 2, 2, 2])
    with socket.create_server(("127.17.1.2", AGENT_PORT)):
        assert processes.free_address(AGENT_PORT, draw=lambda below: next(numbers)) == "127.18.2.3"


async def test_an_ended_pod_stays_until_it_is_deleted(cluster: LocalCluster, store: WatchedStore) -> None:
    made = await cluster.create(pod("exit 0"))
    await ended(store)
    assert [each["status"]["phase"] for each in await cluster.list_pods()] == ["Succeeded"]
    await cluster.delete_pod(made, None)
    assert store.pods(KEY) == []
    assert await cluster.list_pods() == []


async def test_a_secret_is_closed_to_others_and_the_pod_finds_it(
    cluster: LocalCluster, store: WatchedStore, tmp_path: Path
) -> None:
    token = "a token"
    secret = {"kind": "Secret", "metadata": {"name": "tiny-1", "namespace": "default", "labels": {LABEL_RUN: "tiny"}}}
    await cluster.create({**secret, "stringData": {"token": token}})
    file = tmp_path / "runs/default/tiny/secrets/tiny-1/token"
    assert [each.stat().st_mode & 0o777 for each in (file, file.parent)] == [0o600, 0o700]
    mount = {"name": "token", "mountPath": "/var/run/trainyard"}
    container = {
        "env": [{"name": "TRAINYARD_TOKEN_FILE", "value": "/var/run/trainyard/token"}],
        "volumeMounts": [mount],
    }
    volumes = [{"name": "token", "secret": {"secretName": "tiny-1"}}]
    await cluster.create(
        pod("cat $TRAINYARD_TOKEN_FILE > $TRAINYARD_TERMINATION_LOG", container=container, volumes=volumes)
    )
    assert (await ended(store))["message"] == token


async def test_a_claim_is_a_folder_of_the_home_and_without_a_claim_the_uri_stands(
    cluster: LocalCluster, tmp_path: Path
) -> None:
    run = TrainingRun.read_stored(RUN)
    assert cluster.storage_uri(run) == f"file://{tmp_path}/volumes/training"
    plain = TrainingRun.read_stored({**RUN, "spec": {**RUN["spec"], "storage": {"uri": "file:///data/runs"}}})
    assert cluster.storage_uri(plain) == "file:///data/runs"


async def test_a_status_is_written_to_disk(cluster: LocalCluster, store: WatchedStore, tmp_path: Path) -> None:
    [run] = await cluster.list_runs()
    written = await cluster.write_status(run, {"phase": "Pending", "reason": "StagePending"})
    assert Home(tmp_path).read_run(*KEY) == written == store.run(KEY)


async def test_events_are_lines_in_the_runs_folder(cluster: LocalCluster, tmp_path: Path) -> None:
    await cluster.post_event(RUN, "Warning", "PodDeleted", "pod tiny-corpus-0-1 is gone")
    assert '"reason": "PodDeleted"' in (tmp_path / "runs/default/tiny/events.jsonl").read_text()


async def test_opening_a_run_ends_what_a_killed_operator_left_of_it(tmp_path: Path, store: WatchedStore) -> None:
    owner = f"{RUN['metadata']['uid']}/left-behind"
    command = [sys.executable, "-c", "import time; time.sleep(600)"]
    left = await asyncio.create_subprocess_exec(*command, env={processes.OWNER_VARIABLE: owner})
    await until(lambda: left.pid in processes.living(owner), "the process")
    await LocalCluster(Home(tmp_path), store).open_run(RUN)
    assert await left.wait() == -9


def test_only_one_process_drives_a_run(tmp_path: Path) -> None:
    with Home(tmp_path).held(*KEY), pytest.raises(HeldError, match=r"process \d+"), Home(tmp_path).held(*KEY):
        pass
    with Home(tmp_path).held(*KEY):
        pass
