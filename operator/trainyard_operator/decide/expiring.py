"""A run that has finished is deleted after `ttlSecondsAfterFinished`, and its pods with it. What it made stays in storage."""

from trainyard_api.status import FINISHED

from .decision import Decision, DeleteRun, nothing
from .observation import Observation


def expiring(seen: Observation) -> Decision | None:
    """Delete a finished run when its time is up; wait for that until then."""
    if seen.status.phase not in FINISHED:
        return None
    ttl = None if seen.errors else seen.run.spec.ttl_seconds_after_finished
    if ttl is None:
        return nothing(seen)
    left = ttl - seen.seconds_since(seen.status.end_time)
    return nothing(seen, look_again=left) if left > 0 else Decision(seen.status, (DeleteRun(),))
