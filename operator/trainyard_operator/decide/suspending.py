"""A run is suspended on request, `spec.suspend`: its pods save and leave, and none are made until it is resumed.

Nothing of it is a failure. A stage that is done meanwhile is done; what would fail again the same way has failed. Once its
pods were told to go, a run is resumed only after they have gone.
"""

from trainyard_api.status import Phase, Reason, WorkersStatus

from .causes import ends
from .decision import Decision, Event, change, nothing
from .observation import Observation
from .stopping import forced, leaving, living, saved, stopping

SAVING = "spec.suspend is true: the workers save and leave"


def suspending(seen: Observation) -> Decision | None:
    """Stop the run's pods, say when they have gone, and write the next attempt ahead when the run may go on."""
    asked = seen.run.spec.suspend
    if seen.status.phase == Phase.SUSPENDED:
        return (leaving(seen, living(seen)) or nothing(seen)) if asked else _resumed(seen)
    told = seen.status.reason == Reason.SUSPENDING
    if not (asked or told) or any(end.permanent for end in ends(seen)):
        return None
    return stopping(seen, Reason.SUSPENDING, SAVING) or _suspended(seen)


def _suspended(seen: Observation) -> Decision:
    """Nothing of the run lives. An attempt that a recovery was about to begin counts as begun, so that the time until the
    run goes on is not taken for that recovery's.
    """
    left = change(seen, **saved(seen))
    stage, checkpoint = left.stage, seen.of_stage(left.checkpoint)
    going_on = f"go on with stage {stage}" if stage else "begin"
    where = f", from step {checkpoint.step}" if checkpoint else ""
    message = f"spec.suspend is true; set it to false to {going_on}{where}"
    status = change(
        seen,
        **saved(seen),
        phase=Phase.SUSPENDED,
        reason=Reason.SUSPENDED,
        message=message,
        attempt=seen.status.attempt + seen.between_attempts,
        waiting=None,
    )
    return Decision(status, forced(living(seen)), events=(Event("Normal", Reason.SUSPENDED, message),))


def _resumed(seen: Observation) -> Decision | None:
    if seen.status.stage is None:  # it has not begun
        return None
    attempt = seen.status.attempt + 1
    status = change(
        seen,
        phase=Phase.PENDING,
        reason=Reason.STAGE_PENDING,
        message="",
        attempt=attempt,
        placed_time=None,
        ready_time=None,
        workers=WorkersStatus(desired=seen.workers),
    )
    event = Event("Normal", "Resumed", f"stage {seen.status.stage} goes on with attempt {attempt}")
    return Decision(status, look_again=0, events=(event,))
