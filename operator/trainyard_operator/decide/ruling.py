"""What follows from the end of an attempt: the first rule of recovery.rules that matches it decides, else the defaults.

A rule sees the first failure alone, never what only followed from it. Its Restart says that the run goes on, so the
defaults that would end it have no say: only maxFailures has. Disruptions don't count, whatever a rule says.
"""

from dataclasses import dataclass

from trainyard_api.status import ExcludedNode, Failure, Reason

from .causes import UNCOUNTED, End
from .matching import first_rule
from .observation import Observation
from .same_step import same_step
from .suspects import suspect, take_out

OUT_OF_MEMORY_TIMES = 3
"""In one stage, within the window: a peak that a second attempt survives is known, a third is the rule."""


@dataclass(frozen=True)
class Verdict:
    """What is to be done about the end of an attempt, besides making anew what has ended."""

    counts: bool
    excluded: ExcludedNode | None = None
    fails: tuple[Reason, str] | None = None
    """The run ends, for this reason and with this message."""


def verdict(seen: Observation, end: End, failures: tuple[Failure, ...]) -> Verdict:
    """What to do about an end, the last of `failures`; those before it count, and are still within the window."""
    counts = end.cause not in UNCOUNTED
    if matching := first_rule(seen, end):
        position, rule = matching
        if rule.action == "Fail":
            text = f"stage {seen.stage.name}: recovery.rules[{position}] says Fail: {end.message}"
            return Verdict(counts, fails=(Reason.FAILED_BY_RULE, text))
        node = failures[-1].node if rule.action == "RestartExcludingNode" else ""
        excluded = take_out(seen, node, end.cause, f"recovery.rules[{position}]: {end.message}") if node else None
        return Verdict(counts and rule.action != "Ignore", excluded)
    if not counts:
        return Verdict(counts, suspect(seen, end, failures))
    if exhausted := _out_of_memory_again(seen, end, failures):
        return Verdict(counts, fails=(Reason.OUT_OF_MEMORY, exhausted))
    repeated = same_step(seen, end, failures)
    if isinstance(repeated, str):
        return Verdict(counts, fails=(Reason.SAME_STEP_FAILS, repeated))
    return Verdict(counts, repeated or suspect(seen, end, failures))


def _out_of_memory_again(seen: Observation, end: End, failures: tuple[Failure, ...]) -> str | None:
    times = sum((each.cause, each.stage) == (Reason.OUT_OF_MEMORY, seen.stage.name) for each in failures)
    if end.cause != Reason.OUT_OF_MEMORY or times < OUT_OF_MEMORY_TIMES:
        return None
    return f"stage {seen.stage.name} ran out of memory {times} times; last: {end.message}"
