"""What must follow from what is seen, for tables of cases about policies: predicates of a decision and the status before."""

from collections.abc import Callable
from dataclasses import replace

from builders import Case
from trainyard_api.status import Phase, Reason, Status
from trainyard_operator.decide.decision import CreatePod, CreateSecret, Decision

Expectation = Callable[[Decision, Status], bool]
Cases = dict[str, tuple[Case, tuple[Expectation, ...]]]
"""A sentence, what is seen, what must follow."""


def check(case: Case, expectations: tuple[Expectation, ...]) -> None:
    """Decide about the case, and hold the decision against each expectation.

    A status that was just decided is a fixed point, but where the next pass goes on from it: seen again, it is left alone.
    """
    decision = case.decide()
    for expectation in expectations:
        assert expectation(decision, case.status), decision
    before, after = case.status, decision.status
    if (after.attempt, after.ready_time) == (before.attempt, before.ready_time) and after.phase != Phase.RECOVERING:
        assert replace(case, status=after).decide().status == after


def becomes(phase: Phase, reason: Reason, **fields: object) -> Expectation:
    """The status gets this phase and reason, and each of the fields."""
    return lambda decision, _: (
        (decision.status.phase, decision.status.reason) == (phase, reason)
        and all(getattr(decision.status, name) == value for name, value in fields.items())
    )


def does(*kinds: type) -> Expectation:
    """Exactly these actions, and the attempt does not grow with them."""
    return lambda decision, before: (
        [type(action) for action in decision.actions] == list(kinds) and decision.status.attempt == before.attempt
    )


def grows_attempt(stage: str, attempt: int) -> Expectation:
    """The next attempt is written before anything of it is made."""
    return lambda decision, _: (
        (decision.status.stage, decision.status.attempt) == (stage, attempt)
        and not [a for a in decision.actions if isinstance(a, CreatePod | CreateSecret)]
    )


def says(*fragments: str) -> Expectation:
    """The message has all of these in it."""
    return lambda decision, _: all(fragment in decision.status.message for fragment in fragments)


def tells(reason: str, *fragments: str) -> Expectation:
    """One event, of this reason, with all of these in its message."""
    return lambda decision, _: (
        [event.reason for event in decision.events] == [reason]
        and all(fragment in decision.events[0].message for fragment in fragments)
    )


def unchanged(decision: Decision, before: Status) -> bool:
    """Nothing is done and nothing is written."""
    return decision.status == before and not decision.actions
