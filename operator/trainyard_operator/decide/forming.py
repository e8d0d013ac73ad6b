"""A group is formed by making the pods that it lacks; making one twice is harmless. Those that outlived an earlier attempt
stay as they are; one whose container is being started again is waited for, for a while.
"""

from trainyard_api.status import Reason, Waiting

from .decision import Action, CreatePod, CreateSecret, CreateWay, Decision, DeletePod, change, nothing
from .objects import pod_manifest, secret_manifest
from .observation import Observation, Pod, format_time
from .page import ways
from .recovering import FAILED_GRACE_SECONDS
from .suspects import stays

LOOK_SECONDS = 0.5
"""Between two looks whether a container runs again."""
GIVE_WAY_SECONDS = 15.0
"""From giving nodes up, since other runs wait as well, until some are asked for again: a scheduler tries pods that have found
no room within 10 s, and new ones at once.
"""


def forming(seen: Observation) -> Decision | None:
    """Make the missing pods of a group that is not complete yet; say so if the cluster won't have them."""
    if seen.settled:
        return None
    missing = [worker for worker in range(seen.workers) if _is_missing(seen, worker)]
    if not missing:
        return nothing(seen, look_again=LOOK_SECONDS) if any(map(_is_absent, seen.group.values())) else None
    if (seconds := _gives_way(seen)) > 0:
        return nothing(seen, look_again=seconds)
    pods = tuple(CreatePod(pod_manifest(seen, worker)) for worker in missing)
    outdated = tuple(DeletePod(pod.manifest) for worker in missing for pod in _older(seen, worker))
    left = tuple(DeletePod(pod.manifest, FAILED_GRACE_SECONDS) for worker in missing for pod in _left(seen, worker))
    leading = tuple(map(CreateWay, ways(seen)))
    actions: tuple[Action, ...] = (CreateSecret(secret_manifest(seen)), *pods, *leading, *outdated, *left)
    changes = _dearer(seen) | _refused(seen)
    return Decision(change(seen, **changes) if changes else seen.status, actions=actions, look_again=0)


def _gives_way(seen: Observation) -> float:
    """For how many more seconds what the run has given up is left to others."""
    last = seen.status.recoveries[-1] if seen.status.recoveries else None
    if not last or last.cause != Reason.WAITING_FOR_CAPACITY or not seen.others_wait:
        return 0.0
    return GIVE_WAY_SECONDS - seen.seconds_since(last.time) if last.attempt == seen.status.attempt - 1 else 0.0


def _is_missing(seen: Observation, worker: int) -> bool:
    """One that was made for this attempt is not made again: how it ended is for others to decide about."""
    pod = seen.group.get(worker)
    return pod is None or (pod.attempt < seen.status.attempt and not stays(seen, pod))


def _is_absent(pod: Pod) -> bool:
    """Its container is about to be started again."""
    return bool(pod.starts) and pod.wanted and pod.phase != "Running"


def _older(seen: Observation, worker: int) -> list[Pod]:
    """The worker's pods but the last, which is kept for its log."""
    pods = [pod for pod in seen.pods if (pod.stage, pod.worker) == (seen.stage.name, worker)]
    return [pod for pod in pods if pod is not seen.group.get(worker) and pod.deleting is None]


def _left(seen: Observation, worker: int) -> list[Pod]:
    """The worker's last pod, where it lives and is made anew all the same: its container was not started again, or it got its
    node only when the run had come to suspect that, or to give it up.
    """
    pod = seen.group.get(worker)
    return [pod] if pod and pod.wanted else []


def _dearer(seen: Observation) -> dict[str, object]:
    """On record, if pods are lost of a group that was to keep them."""
    last = seen.status.recoveries[-1] if seen.status.recoveries else None
    if last is None or last.tier not in ("ranks", "container") or last.attempt != seen.status.attempt - 1:
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
