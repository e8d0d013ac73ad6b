"""A pod that another one has taken the place of goes: the request to make it may have been on its way for a minute, and have
arrived after its attempt was over. Nobody would ever give it a place, and it would keep its node until the run ends.
"""

from .decision import Decision, DeletePod
from .failing import GIVEN_UP_GRACE_SECONDS
from .observation import Observation


def superseding(seen: Observation) -> Decision | None:
    """Delete what lives of earlier attempts and stages and is not of the group."""
    if seen.status.stage is None:
        return None
    group = {pod.uid for pod in seen.group.values()}
    late = [pod for pod in seen.pods if pod.wanted and pod.uid not in group and pod.attempt < seen.status.attempt]
    if not late:
        return None
    return Decision(seen.status, tuple(DeletePod(pod.manifest, GIVEN_UP_GRACE_SECONDS) for pod in late), look_again=1)
