"""A run may train no longer than `activeDeadlineSeconds`: then its pods save and leave, and it has failed.

Only time in which groups ran counts (`active.py`). If the deadline is raised while the pods leave, the run recovers from their
going as from any other deletion.
"""

from dataclasses import replace

from trainyard_api.status import Reason

from .active import active_seconds
from .causes import ends
from .decision import Decision, fail
from .observation import Observation
from .stopping import forced, living, saved, stopping


def past_deadline(seen: Observation) -> Decision | None:
    """Stop the pods of a run that has run for long enough, then fail it."""
    limit = seen.run.spec.active_deadline_seconds
    if limit is None or active_seconds(seen.status, seen.now) < limit:
        return None
    if any(end.permanent for end in ends(seen)):
        return None
    text = f"its groups have run for activeDeadlineSeconds = {limit}, all in all"
    if decision := stopping(seen, Reason.DEADLINE_EXCEEDED, f"{text}: its workers save and leave"):
        return decision
    remedy = "to go on from the last checkpoint, make the run again with a higher one"
    failed = fail(seen, Reason.DEADLINE_EXCEEDED, f"{text}; {remedy}", **saved(seen))
    return replace(failed, actions=forced(living(seen)))
