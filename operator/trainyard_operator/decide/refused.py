"""A spec that admission let in and that can't work all the same ends the run before anything is made."""

from trainyard_api.status import Reason

from .decision import Decision, fail
from .observation import Observation
from .template import template_mistakes


def refused(seen: Observation) -> Decision | None:
    """Fail a run with mistakes in its spec, all of them in the message."""
    mistakes = seen.errors or template_mistakes(seen.run.spec)
    return fail(seen, Reason.INVALID_SPEC, "; ".join(mistakes)) if mistakes else None
