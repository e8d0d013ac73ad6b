"""Who has fallen silent, and whether its node is gone with it: known within 10 s, where Kubernetes takes 50 s to call a node
not ready and 80 s to give up the pods on it.

Agent 0 and the others expect signs of life of each other, so the witness of a silence is another agent. If agent 0 does not
answer the operator and nobody else has missed it, it may be the operator that is cut off: that ends nothing for a minute. A
kubelet that finds its container unready is a witness too, and tells that the node lives.

To be wrong is safe: what was given up is fenced by the attempt number, whatever it still does.
"""

from dataclasses import dataclass
from datetime import datetime

from trainyard_api.protocol import HEARTBEAT_SECONDS, SILENT_SECONDS

from .observation import Observation, Pod, parse_time

UNWITNESSED_SECONDS = 60.0
"""For how long an agent of rank 0 may not answer that nobody else has missed."""
NEIGHBOUR_SECONDS = SILENT_SECONDS + HEARTBEAT_SECONDS + 1
"""Of agent 0's silence, after which an agent on the same node has answered, or will not."""


@dataclass(frozen=True)
class Silence:
    """A pod whose agent is not heard of any more."""

    pod: Pod
    since: datetime
    node_lost: bool
    """Nothing on its node is heard of."""


def silences(seen: Observation) -> list[Silence]:
    """The pods of the current attempt that have gone silent, if that is beyond doubt."""
    first = next(iter(seen.speakers), None)
    if not seen.settled or first is None:
        return []
    return _told_by(seen, first) if first.silent_since is None else _of_first(seen, first, first.silent_since)


def _told_by(seen: Observation, first: Pod) -> list[Silence]:
    """What agent 0 says of the others. It waits for all of them once it has its place; they may be starting still."""
    state = seen.speaking.get(first.worker)
    silent = {worker: since for worker, since in state.silent.items() if worker in seen.group} if state else {}
    spoke = {peer.worker for peer in state.peers} if state else set()
    found = []
    for worker, since in silent.items():
        pod = seen.group[worker]
        heard = any(other.worker not in silent for other in _beside(seen, pod))
        if pod.wanted and (worker in spoke or _could_speak(seen, pod)):
            found.append(Silence(pod, parse_time(since), node_lost=not heard and not pod.container_unready))
    return found


def _could_speak(seen: Observation, pod: Pod) -> bool:
    """Whether its agent has had its place for long enough."""
    return pod.assigned == seen.status.attempt and seen.seconds_since(pod.assigned_time) >= SILENT_SECONDS


def _of_first(seen: Observation, first: Pod, since: datetime) -> list[Silence]:
    """What others say of agent 0, which does not answer."""
    witnesses = [pod for pod in seen.speakers if _answers(pod, since)]
    missed = any(first.worker in seen.speaking[pod.worker].silent for pod in witnesses if pod.worker in seen.speaking)
    waited = seen.silent_seconds(since)
    known = first.worker in seen.speaking and (
        first.container_unready or first.node_unready or (not witnesses and waited >= UNWITNESSED_SECONDS)
    )
    if not first.wanted or not (missed or known):
        return []
    beside = _beside(seen, first)
    if not all(_answers(pod, since) for pod in beside) and waited < NEIGHBOUR_SECONDS:
        return []
    heard = any(_answers(pod, since) for pod in beside)
    lost = (missed or first.node_unready) and not heard and not first.container_unready
    return [Silence(first, since, node_lost=lost)]


def _beside(seen: Observation, pod: Pod) -> list[Pod]:
    """Other pods of the group on the same node."""
    return [other for other in seen.group.values() if other is not pod and other.node == pod.node and other.wanted]


def _answers(pod: Pod, since: datetime) -> bool:
    """Whether the pod's agent has answered since then."""
    return pod.silent_since is None and pod.agent_answered is not None and pod.agent_answered > since
