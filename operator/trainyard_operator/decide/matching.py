"""Which of the rules in recovery.rules a failure falls under."""

from typing import TYPE_CHECKING

from trainyard_api.pattern import found
from trainyard_api.recovery import FailureRule
from trainyard_api.status import Reason

from .observation import Observation

if TYPE_CHECKING:
    from .causes import End


def first_rule(seen: Observation, end: "End") -> tuple[int, FailureRule] | None:
    """The first rule that matches an end, and its position in the list."""
    if end.cause == Reason.ROLLED_BACK:  # asked for by numerics, which bounds it: no failure
        return None
    rules = enumerate(seen.run.spec.recovery.failure_rules)
    return next(((position, rule) for position, rule in rules if _matches(rule, end, seen.stage.name)), None)


def _matches(rule: FailureRule, end: "End", stage: str) -> bool:
    if rule.causes is not None and end.cause not in rule.causes:
        return False
    if rule.exit_codes is not None and end.exit_code not in rule.exit_codes:
        return False
    if rule.stages is not None and stage not in rule.stages:
        return False
    return rule.message is None or found(rule.message, end.text)
