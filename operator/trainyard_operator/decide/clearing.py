"""A pod that was left behind is taken out of the cluster by force once the attempt after it runs.

On a lost node nobody ends it or says that it has ended, so it would stay for as long as the node is away. When the node comes
back its kubelet finds the pod gone and ends its processes. They could write nothing meanwhile: their attempt is over.
"""

from .decision import Decision, DeletePod
from .observation import Observation, Pod
from .stopping import LEFT_BEHIND_SECONDS


def clearing(seen: Observation) -> Decision | None:
    """Delete by force what another pod of the group has long taken the place of."""
    if seen.status.ready_time is None or not (overdue := left_behind(seen)):
        return None
    return Decision(seen.status, tuple(DeletePod(pod.manifest, 0) for pod in overdue), look_again=1)


def left_behind(seen: Observation) -> list[Pod]:
    """Pods that should have gone and have not."""
    going = (pod for pod in seen.pods if pod.deleting and not pod.over)
    return [pod for pod in going if seen.seconds_since(pod.deleting) > LEFT_BEHIND_SECONDS]
