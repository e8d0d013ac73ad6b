"""A container that was killed and is started again in its pod: the cheapest repair of a dead agent, for nothing is scheduled,
mounted or pulled. It has ended its attempt all the same, for its ranks and what its memory held are gone.

How often each container has been started again is on record with each attempt: once more is an end of that attempt, whoever
leads by then. If it does not run again soon, or ends again before its attempt could begin, its pod is made anew.
"""

from trainyard_api.status import RestartedPod

from .container import BACKING_OFF
from .observation import Observation, Pod

RESTART_SECONDS = 10.0
"""How long a container may take to run again; see container.py for what it takes."""


def started_again(seen: Observation, pod: Pod) -> bool:
    """Whether the container that the attempt began with has ended, and another one takes its place."""
    return pod.starts > next((each.starts for each in seen.status.restarted if each.pod == pod.name), 0)


def on_record(pods: list[Pod]) -> tuple[RestartedPod, ...]:
    """What is written of the pods that stay, with the attempt that begins."""
    return tuple(RestartedPod(pod=pod.name, starts=pod.starts) for pod in pods if pod.starts)


def backs_off(pod: Pod) -> bool:
    """Whether its kubelet waits before it starts the container again."""
    return pod.waiting[0] == BACKING_OFF


def comes_back(seen: Observation, pod: Pod) -> bool:
    """Whether a pod's container runs, or will soon; of one that has always run that is not asked."""
    if not pod.starts:
        return True
    if seen.between_attempts:  # its end is what is recovered from
        return not backs_off(pod)
    if started_again(seen, pod) and not seen.settled:
        return False
    if pod.phase == "Running":
        return True
    *_, last = seen.status.recoveries
    return not backs_off(pod) and seen.silent_seconds(last.time) < RESTART_SECONDS
