"""Pods that must go are told so, and waited for while they save and leave. One that does not go is left behind after a while:
whatever it still does, the attempt number fences it off.
"""

from dataclasses import replace

from trainyard_api.status import Reason

from .decision import Decision, DeletePod, change, shown
from .observation import Observation, Pod

LEFT_BEHIND_SECONDS = 15
"""After a pod's grace period, how long its end may take to show."""


def leaving(seen: Observation, going: list[Pod], grace_seconds: int | None = None) -> Decision | None:
    """Tell live pods to go, and wait for them; None once each of them has gone or is left behind."""
    waited_for = [
        pod for pod in going if pod.deleting is None or seen.seconds_since(pod.deleting) < LEFT_BEHIND_SECONDS
    ]
    if not waited_for:
        return None
    deletes = tuple(DeletePod(pod.manifest, grace_seconds) for pod in waited_for if pod.deleting is None)
    return Decision(seen.status, actions=deletes, look_again=5)


def forced(going: list[Pod]) -> tuple[DeletePod, ...]:
    """What is done about those that are left behind."""
    return tuple(DeletePod(pod.manifest, 0) for pod in going)


def stopping(seen: Observation, reason: Reason, message: str) -> Decision | None:
    """Have all that lives of a run save and leave, and say why; None once nothing of it runs any more."""
    decision = leaving(seen, living(seen))
    if decision is None:
        return None
    return replace(decision, status=change(seen, reason=reason, message=message, waiting=None, **saved(seen)))


def living(seen: Observation) -> list[Pod]:
    """All pods of the run in which a trainer may still run."""
    return [pod for pod in seen.pods if pod.alive]


def saved(seen: Observation) -> dict[str, object]:
    """How far the group that is stopped has come, in the last words of rank 0: its agent's, then its pod's."""
    first = seen.group.get(0) or seen.went
    of_this_group = first is not None and first.stage == seen.stage.name and seen.status.active_since is not None
    ended = first.termination if first and of_this_group else None
    said = ended or seen.agent
    return {
        "progress": shown(said.progress) if said and said.progress else seen.status.progress,
        "checkpoint": (said.checkpoint if said else None) or seen.status.checkpoint,
        "workers": seen.status.workers.model_copy(update={"ready": len([p for p in living(seen) if p.node])}),
    }
