"""What to do about one run. The first policy with something to say decides; each is a file that reads by itself."""

from dataclasses import replace

from .assigning import assigning
from .beginning import beginning
from .clearing import clearing
from .completing import completing
from .decision import Decision, change, nothing
from .expiring import expiring
from .failing import failing
from .finished import finished
from .forming import forming
from .observation import Observation
from .past_deadline import past_deadline
from .quarantining import quarantining
from .readmitting import readmitting
from .recovering import recovering
from .refused import refused
from .running import running
from .superseding import superseding
from .suspending import suspending
from .waiting import waiting

POLICIES = (
    finished,
    expiring,
    refused,
    quarantining,
    completing,
    suspending,
    past_deadline,
    beginning,
    readmitting,
    failing,
    recovering,
    superseding,
    forming,
    waiting,
    assigning,
    clearing,
    running,
)


def decide(seen: Observation) -> Decision:
    """Actions, the next status and when to look again, from all that is seen of a run."""
    decision = next((decision for policy in POLICIES if (decision := policy(seen))), nothing(seen))
    if decision.status.observed_generation == seen.run.metadata.generation:
        return decision
    return replace(decision, status=change(seen))  # the spec was changed, and the policy had nothing to write
