"""How long the groups of a run have run, all in all: what `activeDeadlineSeconds` bounds.

Two figures in the status, not a timer, so an operator that is restarted loses nothing: the seconds up to `activeSince`, and
that moment. A group counts from the moment on at which all of it runs until its attempt has ended; waiting for room, being
made anew and being suspended are no doing of the run's.
"""

from datetime import datetime

from trainyard_api.status import Phase, Status

from .observation import format_time, parse_time

ACTIVE = (Phase.STARTING, Phase.RUNNING)


def active_seconds(status: Status, now: datetime) -> float:
    """Seconds that groups have run until now."""
    if status.active_since is None:
        return status.active_seconds
    return status.active_seconds + max(0.0, (now - parse_time(status.active_since)).total_seconds())


def clocked(status: Status, now: datetime) -> Status:
    """The status with its clock started or stopped, as its phase has it."""
    runs = status.phase in ACTIVE and status.ready_time is not None
    if runs == (status.active_since is not None):
        return status
    if runs:
        return status.model_copy(update={"active_since": format_time(now)})
    seconds = round(active_seconds(status, now), 3)
    return status.model_copy(update={"active_seconds": seconds, "active_since": None})
