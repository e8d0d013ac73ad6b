"""A group that is not wholly running waits, and says for what: in the words of the scheduler or the kubelet, with the field
that the user can change.
"""

from trainyard_api.status import Phase, Reason, Waiting

from .decision import Decision, change, fail, nothing
from .failing import UNPULLABLE
from .observation import Observation, Pod, format_time


def waiting(seen: Observation) -> Decision | None:
    """Say why the group does not run yet."""
    pods = seen.group.values()
    if all((pod.phase == "Running" and pod.ip) or not pod.alive for pod in pods):
        return None
    placed = all(pod.node for pod in pods)
    why = next((why for pod in pods if (why := _why(seen, pod))), None)
    if why and why.reason == Reason.IMAGE_PULL_FAILED and "InvalidImageName" in why.message:
        return fail(seen, why.reason, why.message)
    reason = why.reason if why else Reason.CONTAINER_NOT_STARTED if placed else Reason.WAITING_FOR_CAPACITY
    ready = sum(pod.phase == "Running" for pod in pods)
    before = seen.status.waiting
    if why and before and (before.reason, before.object) == (why.reason, why.object):
        why = why.model_copy(update={"since": before.since, "message": before.message})
    status = change(
        seen,
        phase=Phase.STARTING if placed else Phase.QUEUED,
        reason=reason,
        message=why.message if why else "",
        placed_time=(seen.status.placed_time or format_time(seen.now)) if placed else None,
        workers=seen.status.workers.model_copy(update={"ready": ready}),
        waiting=why,
    )
    return Decision(status, look_again=5) if status != seen.status else nothing(seen, look_again=5)


def _why(seen: Observation, pod: Pod) -> Waiting | None:
    since, name = format_time(seen.now), f"pod/{pod.name}"
    if pod.unschedulable:
        remedy = "free room, add nodes, or ask for less in spec.workers and spec.resources"
        if "persistentvolumeclaim" in pod.unschedulable:
            remedy = "create the claim that spec.storage.claimName names"
        elif kept_off := pod.excluded:
            remedy += f"; it keeps off {', '.join(kept_off)} after failures: `trainyard nodes` says which, and forgives"
        return Waiting(
            reason=Reason.WAITING_FOR_CAPACITY,
            message=f"{pod.unschedulable.rstrip('. ')}; {remedy}",
            object=name,
            since=since,
        )
    reason, message = pod.waiting
    if reason in UNPULLABLE:
        image = seen.run.spec.image or seen.settings.trainer_image
        text = f"spec.image: {image} can't be pulled ({reason}: {message}); correct the name or give access"
        return Waiting(reason=Reason.IMAGE_PULL_FAILED, message=text, object=name, since=since)
    if reason and reason not in ("ContainerCreating", "PodInitializing"):
        text = f"{reason}: {message}"
        if (secret := seen.run.spec.storage.secret_name) and f'secret "{secret}"' in message:
            text += "; create the Secret that spec.storage.secretName names, in the run's namespace"
        return Waiting(reason=Reason.CONTAINER_NOT_STARTED, message=text, object=name, since=since)
    return None
