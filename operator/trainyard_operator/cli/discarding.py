"""What a run of a cluster has made is deleted by a pod in its namespace, before the run itself is.

A claim is seen by pods alone, and a bucket's credentials may be in a Secret alone; so the pod that deletes is made as those
are that wrote. It is the user who makes it: neither `kubectl delete` nor the operator ever deletes what was trained.
"""

import asyncio

from trainyard_api.names import API_VERSION, KIND, MANAGED_BY, TRAINER_CONTAINER
from trainyard_api.run import TrainingRun
from trainyard_api.status import FINISHED, Phase, Status

from ..cluster.protocol import Manifest
from ..decide.objects import CONTAINER_SECURITY, POD_SECURITY, SCRATCH
from .applied import LOOK_SECONDS, Applied
from .inputs import InputError

DISCARD_SECONDS = 900.0
LEAVING_SECONDS = 300.0


async def discard_artifacts(there: Applied, run: TrainingRun, status: Status, image: str | None) -> None:
    """Delete all that the run has made. Raises InputError if it can't be; then something of it may be left."""
    if status.phase not in (*FINISHED, Phase.SUSPENDED):
        raise InputError(
            f"--artifacts: run {there.name} is {status.phase} and writes; `trainyard suspend {there.name}` stops it"
        )
    pods = await _ended_pods(there)
    storage = run.spec.storage
    if storage.uri.startswith("file://") and storage.claim_name is None:
        raise InputError(
            f"--artifacts: {storage.uri} is in no claim; delete it where the pods' template mounts it from"
        )
    image = image or run.spec.image or next((_image(pod) for pod in pods), None)
    if image is None:
        raise InputError("--artifacts: no pod is left to tell the trainer's image; name it by --image")
    uri = artifacts_uri(run)
    if wrong := await there.run_pod(_pod(run, uri, image), DISCARD_SECONDS):
        raise InputError(f"--artifacts: {uri} could not be deleted, and the run was not: {wrong}")


def artifacts_uri(run: TrainingRun) -> str:
    """Where a run puts all that it makes, as its pods see it."""
    return "/".join((run.spec.storage.uri.rstrip("/"), *run.key))


async def _ended_pods(there: Applied) -> list[Manifest]:
    """The run's pods, once none of them writes any more: a run has ended a moment before they have."""
    try:
        async with asyncio.timeout(LEAVING_SECONDS):
            while True:
                pods = await there.pods()
                if all(pod["status"].get("phase") in ("Succeeded", "Failed") for pod in pods):
                    return pods
                await asyncio.sleep(LOOK_SECONDS)
    except TimeoutError:
        raise InputError(
            f"--artifacts: pods of {there.name} are still leaving; try again when they have gone"
        ) from None


def _image(pod: Manifest) -> str:
    containers = {each["name"]: each for each in pod["spec"]["containers"]}
    return str(containers[TRAINER_CONTAINER]["image"])


def _pod(run: TrainingRun, uri: str, image: str) -> Manifest:
    """A pod that deletes what is at `uri`, and goes with the run."""
    metadata, storage = run.metadata, run.spec.storage
    owner = {"apiVersion": API_VERSION, "kind": KIND, "name": metadata.name, "uid": metadata.uid}
    mounts = [{"name": "scratch", "mountPath": "/tmp"}]
    volumes: list[Manifest] = [{"name": "scratch", "emptyDir": {}}]
    if storage.claim_name:
        mounts.append({"name": "storage", "mountPath": storage.uri.removeprefix("file://")})
        volumes.append({"name": "storage", "persistentVolumeClaim": {"claimName": storage.claim_name}})
    container = {
        "name": "discard",
        "image": image,
        "command": ["trainyard-trainer", "discard", uri],
        "env": [{"name": name, "value": value} for name, value in SCRATCH.items()],
        "volumeMounts": mounts,
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "resources": {"requests": {"cpu": "100m", "memory": "256Mi"}, "limits": {"memory": "256Mi"}},
        "securityContext": CONTAINER_SECURITY,
    }
    if storage.secret_name:
        container["envFrom"] = [{"secretRef": {"name": storage.secret_name}}]
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": f"{metadata.name}-discard",
            "namespace": metadata.namespace,
            "labels": MANAGED_BY,
            "ownerReferences": [owner],
        },
        "spec": {
            "restartPolicy": "Never",
            "automountServiceAccountToken": False,
            "containers": [container],
            "volumes": volumes,
            "securityContext": POD_SECURITY,
        },
    }
