"""A group is formed by making the pods of the current attempt that are not there yet; making one twice is harmless."""

from trainyard_api.status import Phase

from .decision import CreatePod, CreateSecret, Decision, DeletePod
from .objects import pod_manifest, secret_manifest
from .observation import Observation


def forming(seen: Observation) -> Decision | None:
    """Make the missing pods of a group that has not been complete before."""
    if seen.status.phase not in (Phase.PENDING, Phase.RECOVERING):
        return None
    missing = [worker for worker in range(seen.workers) if worker not in seen.group]
    if not missing:
        return None
    pods = tuple(CreatePod(pod_manifest(seen, worker)) for worker in missing)
    outdated = tuple(
        DeletePod(pod.manifest)
        for pod in seen.pods
        if pod.stage == seen.stage.name and pod.attempt < seen.status.attempt - 1 and pod.deleting is None
    )
    return Decision(seen.status, actions=(CreateSecret(secret_manifest(seen)), *pods, *outdated), look_again=0)
