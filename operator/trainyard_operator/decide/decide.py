"""What to do about one run. The first policy with something to say decides; each is a file that reads by itself."""

from .assigning import assigning
from .beginning import beginning
from .completing import completing
from .decision import Decision, nothing
from .failing import failing
from .finished import finished
from .forming import forming
from .observation import Observation
from .quarantining import quarantining
from .recovering import recovering
from .refused import refused
from .running import running
from .waiting import waiting

POLICIES = (
    finished,
    refused,
    quarantining,
    beginning,
    completing,
    failing,
    recovering,
    forming,
    waiting,
    assigning,
    running,
)


def decide(seen: Observation) -> Decision:
    """Actions, the next status and when to look again, from all that is seen of a run."""
    for policy in POLICIES:
        if decision := policy(seen):
            return decision
    return nothing(seen)
