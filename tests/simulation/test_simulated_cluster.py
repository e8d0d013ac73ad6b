"""The simulated API server behind our own client: the contract that a real one fulfils as well (tests/kind)."""

import random
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

import pytest
from builders import manifest
from cluster_contract import ApiServerContract, Subject
from trainyard_api.names import KIND, LABEL_RANK, LABEL_RUN, PLURAL
from trainyard_operator.cluster.kubernetes import RESTARTS_IN_PLACE, KubernetesCluster
from trainyard_operator.cluster.simulated import ApiServer
from trainyard_operator.runtime.store import Store
from trainyard_operator.simulation.faults import NetworkFaults
from trainyard_operator.simulation.network import Network, serving
from trainyard_operator.simulation.operators import SERVER, SimulatedAccess


class TestSimulatedCluster(ApiServerContract):
    @pytest.fixture
    async def subject(self) -> AsyncIterator[Subject]:
        server = ApiServer(lambda: datetime.now(UTC))
        network = Network(NetworkFaults(seconds=0.0), random.Random(0), {SERVER: serving(server)})
        cluster = KubernetesCluster(SimulatedAccess(network, "a test"))
        store = Store(lambda key: None, lambda: datetime.now(UTC))
        for plural in (PLURAL, "pods"):
            server.watch(plural, lambda event, it: store.remove(it) if event == "DELETED" else store.put(it))
        owner = server.add(PLURAL, manifest())

        def pod(name: str) -> dict[str, Any]:
            owners = [{"kind": KIND, "name": "tiny", "uid": owner["metadata"]["uid"]}]
            metadata = {
                "name": name,
                "namespace": "team",
                "labels": {LABEL_RUN: "tiny", LABEL_RANK: "1"},
                "ownerReferences": owners,
            }
            return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": {"containers": []}}

        async def run() -> dict[str, Any]:
            return owner

        async def gone_run() -> dict[str, Any]:
            server.remove(PLURAL, ("team", "tiny"))
            return owner

        yield Subject(cluster, store, pod, run, gone_run)
        await cluster.close()


@pytest.mark.parametrize(
    ("nodes", "answer"),
    [([], False), ([True, True], True), ([True, False], False), ([True] * 150, True), ([True] * 150 + [False], False)],
)
async def test_containers_are_started_again_in_place_where_all_nodes_declare_that_they_can(
    nodes: list[bool], answer: bool
) -> None:
    server = ApiServer(lambda: datetime.now(UTC))
    for number, can in enumerate(nodes):
        status = {"declaredFeatures": ["Other", RESTARTS_IN_PLACE]} if can else {}
        server.add("nodes", {"metadata": {"name": f"node-{number}", "namespace": ""}, "status": status})
    network = Network(NetworkFaults(seconds=0.0), random.Random(0), {SERVER: serving(server)})
    access = SimulatedAccess(network, "a test")
    for namespaces, expected in (((), answer), (("team",), False)):
        cluster = KubernetesCluster(access, namespaces)
        assert await cluster.restarts_in_place() == expected
        await cluster.close()
