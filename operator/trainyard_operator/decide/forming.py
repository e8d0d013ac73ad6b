"""A group is formed by making the pods of the current attempt that are not there yet; making one twice is harmless."""

from trainyard_api.status import Phase, Reason, Status, Waiting

from .decision import Action, CreatePod, CreateSecret, Decision, DeletePod, change
from .objects import pod_manifest, secret_manifest
from .observation import Observation, format_time


def forming(seen: Observation) -> Decision | None:
    """Make the missing pods of a group that has not been complete before; say so if the cluster won't have them."""
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
    actions: tuple[Action, ...] = (CreateSecret(secret_manifest(seen)), *pods, *outdated)
    return Decision(_refused(seen) if seen.refusal else seen.status, actions=actions, look_again=0)


def _refused(seen: Observation) -> Status:
    """The cluster's own words; it is asked again, for quotas and policies change, with growing waits."""
    before = seen.status.waiting
    since = before.since if before and before.message == seen.refusal else format_time(seen.now)
    name = f"trainingrun/{seen.run.metadata.name}"
    why = Waiting(reason=Reason.POD_REFUSED, message=seen.refusal, object=name, since=since)
    return change(seen, reason=Reason.POD_REFUSED, message=seen.refusal, waiting=why)
