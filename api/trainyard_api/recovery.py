"""What a user may say about recoveries: how long to wait for signs of life, what to forgive, and what to do about which
failure. What holds where no rule says otherwise is in docs/recovery.md.
"""

from typing import Annotated, ClassVar, Literal

from pydantic import Field, StringConstraints

from .fields import StageName
from .model import Mistake, Model, Rule, rule
from .pattern import MAX_PATTERN, mistake
from .status import Cause

MAX_RULES = 16
MAX_STAGES = 32

NO_PATTERN = "not a regular expression as RE2 has them, without look-around and back-references; correct it"

RuleAction = Literal["Restart", "RestartExcludingNode", "Fail", "Ignore"]


def _mistakes_of_pattern(it: "FailureRule") -> list[Mistake]:
    wrong = mistake(it.message) if it.message else None
    return [("message", f"{NO_PATTERN} ({wrong})")] if wrong else []


class FailureRule(Model):
    """What to do about the failures that all conditions which are given hold for. The first rule that matches decides."""

    causes: Annotated[list[Cause], Field(min_length=1, max_length=16)] | None = None
    """As in status.recoveries."""
    exit_codes: Annotated[list[Annotated[int, Field(ge=1, le=255)]], Field(min_length=1, max_length=32)] | None = None
    """Of the process that failed first; 128 + n where signal n ended it."""
    message: Annotated[str, StringConstraints(min_length=1, max_length=MAX_PATTERN)] | None = None
    """A regular expression, as RE2 has them, found anywhere in the failure's message or in the last lines of its process."""
    stages: Annotated[list[StageName], Field(min_length=1, max_length=MAX_STAGES)] | None = None
    """Names of stages."""
    action: RuleAction
    """Restart recovers, and counts what counts without a rule. RestartExcludingNode also keeps the run's pods off the node
    for excludeNodeSeconds. Ignore recovers and does not count. Fail ends the run.
    """

    rules: ClassVar = (
        rule(
            "has(self.causes) || has(self.exitCodes) || has(self.message) || has(self.stages)",
            lambda it: any(given is not None for given in (it.causes, it.exit_codes, it.message, it.stages)),
            "a rule without a condition decides about every failure; give causes, exitCodes, message or stages",
        ),
        Rule(
            # true of every pattern; where it is none, there is an error to show, which `|| true` would hide
            cel="!has(self.message) || ''.matches(self.message) || !''.matches(self.message)",
            message=NO_PATTERN,
            mistakes=_mistakes_of_pattern,
            field="message",
        ),
    )


class Recovery(Model):
    """How long to wait for signs of life, how many failures to forgive, and what to do about which."""

    max_failures: Annotated[int, Field(ge=0, le=100)] = 10
    """Failures to recover from within the window; disruptions (eviction, preemption, lost nodes) don't count."""
    window_seconds: Annotated[int, Field(ge=1, le=31_536_000)] = 86_400
    """How far back failures count."""
    hang_seconds: Annotated[int, Field(ge=5, le=604_800)] = 600
    """A rank that works and is silent for so long is taken for hung: stacks are taken, and all ranks started anew."""
    start_seconds: Annotated[int, Field(ge=5, le=604_800)] = 1_800
    """From pods scheduled to ranks started, images pulled included; and how long a rank may be silent before its first step."""
    grace_seconds: Annotated[int, Field(ge=10, le=86_400)] | None = None
    """What a pod that must go is given to save in; without it, what saving has been measured to take, with a margin."""
    exclude_node_seconds: Annotated[int, Field(ge=0, le=31_536_000)] = 86_400
    """How long pods keep off a node that failures are put down to; 0: never, and what other runs found out is not heeded."""
    failure_rules: Annotated[list[FailureRule], Field(max_length=MAX_RULES, alias="rules")] = []
    """In order; what matches none is dealt with as documented."""
