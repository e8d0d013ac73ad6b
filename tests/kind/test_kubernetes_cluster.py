"""The client and the watches against a real API server, in a namespace of their own, beside the operator that runs there.

Pods belong to a ConfigMap and to a run that isn't there, so the operator leaves them alone; they ask for a node that isn't
there either, so they never start. The one run is refused by the operator, which leaves a failed run's status alone.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import kopf
import pytest
from cluster_contract import ApiServerContract, Subject
from conditions import until
from kind.cluster import Namespace, get, kubectl
from kind.runs import small_run
from trainyard_api.names import LABEL_RANK, LABEL_RUN
from trainyard_operator.cluster.access import Access, find_connection
from trainyard_operator.cluster.kubernetes import KubernetesCluster
from trainyard_operator.runtime.kopf_wiring import watch
from trainyard_operator.runtime.store import Store

NOBODY = "nobody"


@pytest.fixture
def access(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Access:
    """The way to the test cluster, whatever context is the current one."""
    config = tmp_path / "kubeconfig"
    config.write_text(kubectl("config", "view", "--minify", "--flatten", "--raw").stdout)
    monkeypatch.setenv("KUBECONFIG", str(config))
    return Access(find_connection(), lambda method, url, code: None)


@pytest.fixture
async def cluster(access: Access, namespace: Namespace) -> AsyncIterator[KubernetesCluster]:
    made = KubernetesCluster(access, (namespace.name,))
    yield made
    await made.close()


@pytest.fixture
def a_pod(namespace: Namespace) -> Callable[[str], dict[str, Any]]:
    """Makes pods of one owner, that never start."""
    name = f"owner-{datetime.now(UTC):%H%M%S%f}"
    kubectl("-n", namespace.name, "create", "configmap", name)
    uid = get("-n", namespace.name, "configmap", name)["metadata"]["uid"]

    def make(pod: str) -> dict[str, Any]:
        owner = {"apiVersion": "v1", "kind": "ConfigMap", "name": name, "uid": uid}
        metadata = {
            "name": pod,
            "namespace": namespace.name,
            "labels": {LABEL_RUN: NOBODY, LABEL_RANK: "1"},
            "ownerReferences": [owner],
        }
        spec = {"containers": [{"name": "c", "image": "none"}], "nodeSelector": {"trainyard.dev/no": "node"}}
        return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}

    return make


async def failed_run(cluster: KubernetesCluster, namespace: Namespace, name: str) -> dict[str, Any]:
    run = namespace.apply(small_run(name, template={"spec": {"hostNetwork": True}}))
    await asyncio.to_thread(kubectl, "-n", namespace.name, "wait", "--for=jsonpath={.status.phase}=Failed",
                            f"trainingrun/{run.name}", "--timeout=30s")  # fmt: skip
    return next(each for each in await cluster.list_runs() if each["metadata"]["name"] == name)


class TestKubernetesCluster(ApiServerContract):
    @pytest.fixture
    async def subject(
        self, cluster: KubernetesCluster, access: Access, namespace: Namespace, a_pod: Callable[[str], dict[str, Any]]
    ) -> AsyncIterator[Subject]:
        store = Store(lambda key: None, lambda: datetime.now(UTC))
        watching = asyncio.create_task(watch(store, access, (namespace.name,), lambda: None))

        async def run() -> dict[str, Any]:
            return await failed_run(cluster, namespace, f"run-{datetime.now(UTC):%H%M%S%f}")

        async def gone_run() -> dict[str, Any]:
            found = await run()
            kubectl("-n", namespace.name, "delete", "trainingrun", found["metadata"]["name"])
            return found

        yield Subject(cluster, store, a_pod, run, gone_run)
        watching.cancel()
        await asyncio.wait({watching}, timeout=10)


async def test_the_same_event_twice_is_one_event(cluster: KubernetesCluster, namespace: Namespace):
    run = await failed_run(cluster, namespace, "eventful")
    for _ in range(2):
        await cluster.post_event(run, "Warning", "Tested", "by a test")
    chosen = "reason=Tested,involvedObject.name=eventful"
    assert len(get("-n", namespace.name, "events", "--field-selector", chosen)["items"]) == 1


async def test_watches_keep_the_store_up_to_date_and_leave_no_mark(
    cluster: KubernetesCluster, access: Access, namespace: Namespace, a_pod
):
    store = Store(lambda key: None, lambda: datetime.now(UTC))
    watching = asyncio.create_task(watch(store, access, (namespace.name,), lambda: None))
    run = await failed_run(cluster, namespace, "watched")
    key = namespace.name, "watched"
    await until(lambda: (store.run(key) or {}).get("status", {}).get("phase") == "Failed", "the run was seen")
    assert "managedFields" not in store.run(key)["metadata"]
    pod = await cluster.create(a_pod("watched-pod"))
    uids = lambda: {each["metadata"]["uid"] for each in store.pods((namespace.name, NOBODY))}  # noqa: E731
    await until(lambda: pod["metadata"]["uid"] in uids(), "the pod was seen")
    await cluster.delete_pod(pod, grace_seconds=0)
    await until(lambda: pod["metadata"]["uid"] not in uids(), "the deletion was seen")
    kubectl("-n", namespace.name, "delete", "trainingrun", "watched")
    await until(lambda: store.run(key) is None, "the run was forgotten")
    assert "kopf" not in json.dumps(run["metadata"])
    assert not watching.done(), watching
    watching.cancel()
    await asyncio.wait({watching}, timeout=10)
    assert watching.cancelled()


async def test_a_refused_login_ends_the_watches(access: Access, namespace: Namespace):
    ca = get("-n", namespace.name, "configmap", "kube-root-ca.crt")["data"]["ca.crt"]
    stranger = Access(
        kopf.ConnectionInfo(server=access.server, ca_data=ca, token="a stranger's"), lambda method, url, code: None
    )
    store = Store(lambda key: None, lambda: datetime.now(UTC))
    with pytest.raises(Exception, match="has ended"):
        await asyncio.wait_for(watch(store, stranger, (namespace.name,), lambda: None), timeout=30)
