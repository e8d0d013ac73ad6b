"""A run whose storage is S3: the same weights as on a claim. The server is a process of this machine, outside the cluster."""

import json
import subprocess
from collections.abc import Iterator

import pytest
import yaml
from kind.cluster import Namespace, Run, kubectl
from kind.runs import small_run
from object_store import BUCKET, CREDENTIALS, ObjectStore, connected_to, object_store
from trainyard_api.names import artifact_uri
from trainyard_api.storage import open_storage

SECRET = "s3-credentials"
STORAGE = {"uri": f"s3://{BUCKET}/runs", "secretName": SECRET}


@pytest.fixture(scope="module")
def server() -> Iterator[ObjectStore]:
    """Listens where pods find this machine: at the gateway of the nodes' network."""
    command = ["docker", "network", "inspect", "kind"]
    network = json.loads(subprocess.run(command, capture_output=True, check=True, timeout=60).stdout)[0]
    gateway = next(each["Gateway"] for each in network["IPAM"]["Config"] if "." in each.get("Gateway", ""))
    with object_store(host=gateway) as server, connected_to(server):
        yield server


@pytest.fixture(scope="module")
def waiting(namespace: Namespace, server: ObjectStore) -> Run:
    """A run whose Secret isn't there yet."""
    return namespace.apply(small_run("bucket", workers=2, storage=STORAGE))


def test_a_run_waits_for_its_secret_in_the_kubelets_words(waiting: Run) -> None:
    status = waiting.until(lambda s: s.get("waiting"), 120, "waits")
    assert f'secret "{SECRET}" not found' in status["waiting"]["message"]
    assert "spec.storage.secretName" in status["waiting"]["message"]


def test_it_completes_on_s3_with_the_weights_that_a_claim_gives(
    waiting: Run, namespace: Namespace, server: ObjectStore
) -> None:
    secret = {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": SECRET},
        "stringData": dict(CREDENTIALS | {"AWS_ENDPOINT_URL": server.endpoint}),
    }
    kubectl("-n", namespace.name, "apply", "-f", "-", given=yaml.safe_dump(secret))
    claim = namespace.apply(small_run("claim", workers=2))
    status = waiting.until(lambda s: s.get("phase") == "Succeeded", 300, "succeeds")
    assert all(stage["artifact"].startswith("s3://") for stage in status["stages"])
    made = open_storage(artifact_uri(STORAGE["uri"], namespace.name, waiting.name, "folder"))
    digest = json.loads(made.read("artifact.json"))["files"]["model/model.safetensors"]["sha256"]
    claim.until(lambda s: s.get("phase") == "Succeeded", 300, "succeeds")
    assert digest == claim.weights("folder")
