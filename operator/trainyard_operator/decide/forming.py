"""A group is formed by making the pods that it lacks; making one twice is harmless. Those that outlived an earlier attempt
stay as they are.
"""

from trainyard_api.status import Reason, Waiting

from .decision import Action, CreatePod, CreateSecret, Decision, DeletePod, change
from .objects import pod_manifest, secret_manifest
from .observation import Observation, Pod, format_time
from .suspects import stays


def forming(seen: Observation) -> Decision | None:
    """Make the missing pods of a group that is not complete yet; say so if the cluster won't have them."""
    if seen.settled:
        return None
    missing = [worker for worker in range(seen.workers) if _is_missing(seen, worker)]
    if not missing:
        return None
    pods = tuple(CreatePod(pod_manifest(seen, worker)) for worker in missing)
    outdated = tuple(DeletePod(pod.manifest) for worker in missing for pod in _older(seen, worker))
    actions: tuple[Action, ...] = (CreateSecret(secret_manifest(seen)), *pods, *outdated)
    changes = _dearer(seen) | _refused(seen)
    return Decision(change(seen, **changes) if changes else seen.status, actions=actions, look_again=0)


def _is_missing(seen: Observation, worker: int) -> bool:
    """One that was made for this attempt is not made again: how it ended is for others to decide about."""
    pod = seen.group.get(worker)
    return pod is None or (pod.attempt < seen.status.attempt and not stays(seen, pod))


def _older(seen: Observation, worker: int) -> list[Pod]:
    """The worker's pods but the last, which is kept for its log."""
    pods = [pod for pod in seen.pods if (pod.stage, pod.worker) == (seen.stage.name, worker)]
    return [pod for pod in pods if pod is not seen.group.get(worker) and pod.deleting is None]


def _dearer(seen: Observation) -> dict[str, object]:
    """On record, if pods are lost of a group of which ranks alone were to be made anew."""
    last = seen.status.recoveries[-1] if seen.status.recoveries else None
    if last is None or last.tier != "ranks" or last.attempt != seen.status.attempt - 1:
        return {}
    return {"recoveries": (*seen.status.recoveries[:-1], last.model_copy(update={"tier": "pod"}))}


def _refused(seen: Observation) -> dict[str, object]:
    """The cluster's own words; it is asked again, for quotas and policies change, with growing waits."""
    if not seen.refusal:
        return {}
    before = seen.status.waiting
    since = before.since if before and before.message == seen.refusal else format_time(seen.now)
    name = f"trainingrun/{seen.run.metadata.name}"
    why = Waiting(reason=Reason.POD_REFUSED, message=seen.refusal, object=name, since=since)
    return {"reason": Reason.POD_REFUSED, "message": seen.refusal, "waiting": why}
