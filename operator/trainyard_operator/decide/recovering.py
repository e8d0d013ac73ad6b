"""Between two attempts: what must go of the old group ends, then the next attempt is written ahead.

What stays is left alone: agents end what they still have of old ranks when they get their next place. Pods that go after a
disruption keep their grace period, for they save before they stop; after a failure what they hold is of no use, and they get
seconds; one that is given up is not waited for.
"""

from itertools import pairwise

from trainyard_api.status import Phase, Recovery, WorkersStatus

from .causes import KILLED, UNCOUNTED
from .decision import Decision, change, nothing
from .in_place import on_record
from .observation import Observation
from .stopping import forced, leaving
from .suspects import stays

FAILED_GRACE_SECONDS = 5
LONGEST_WAIT_SECONDS = 60.0
"""After attempts that got no further than the one before: 1, 2, 4 … so many seconds."""


def recovering(seen: Observation) -> Decision | None:
    """End what is not to stay of the old attempt; when it has ended, write ahead the next."""
    if not seen.between_attempts:
        return None
    *_, last = seen.status.recoveries
    staying = [pod for pod in seen.group.values() if stays(seen, pod) and last.tier != "group"]
    stay = {pod.uid for pod in staying}
    going = [pod for pod in seen.pods if pod.alive and pod.uid not in stay and not seen.given_up(pod)]
    if decision := leaving(seen, going, None if last.cause in UNCOUNTED else FAILED_GRACE_SECONDS):
        return decision
    if (left := _pause(seen)) > 0:
        return nothing(seen, look_again=left)
    status = change(
        seen,
        phase=Phase.RECOVERING,
        attempt=seen.status.attempt + 1,
        placed_time=None,
        ready_time=None,
        workers=WorkersStatus(desired=seen.workers, ready=len(staying)),
        restarted=on_record(staying),
    )
    return Decision(status, actions=forced(going), look_again=0)


def _pause(seen: Observation) -> float:
    """Seconds that are left to wait: none after the first failure, twice as long after each attempt that got no further."""
    *_, last = seen.status.recoveries
    futile = 0
    for earlier, later in pairwise(entry for entry in seen.status.recoveries if _by_itself(entry)):
        futile = futile + 1 if (later.step or 0) <= (earlier.step or 0) and later.stage == earlier.stage else 0
    if not futile or not _by_itself(last):
        return 0.0
    since = seen.seconds_since(last.time)
    return min(LONGEST_WAIT_SECONDS, 2.0 ** (futile - 1)) - since if since >= 0 else 0.0  # the clock was set back


def _by_itself(entry: Recovery) -> bool:
    """Whether the next attempt may well fail in the same way: not after a disruption, nor after a kill from outside."""
    return entry.cause not in UNCOUNTED and entry.exit_code != KILLED
