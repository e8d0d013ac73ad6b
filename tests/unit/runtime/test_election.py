"""What a candidate does next, for all that it can know of the Lease."""

import pytest
from trainyard_operator.runtime.election import Lost, Record, View, Wait, Write, elect

NOW = 1000.0
OURS, THEIRS, RELEASED = Record("us", 7), Record("them", 7), Record("", 7)


def follower(record: Record | None = THEIRS, *, unchanged: float = 1, tried: float = 1e9) -> View:
    """One who doesn't lead: for how long the record hasn't changed, how long ago it last tried to write it."""
    return View("us", record, changed=NOW - unchanged, tried=NOW - tried)


def leader(record: Record | None = OURS, *, renewed: float = 1, tried: float | None = None) -> View:
    """One who leads: how long ago the last renewal that succeeded, and the last one at all, were sent."""
    tried = renewed if tried is None else tried
    return View("us", record, changed=NOW - renewed, tried=NOW - tried, renewed=NOW - renewed)


def unrenewed(seconds: float) -> Lost:
    return Lost(f"the Lease was not renewed for {seconds:.1f} s")


CASES = {
    "where there is no Lease yet, it is made at once": (View("us"), Write()),
    "a Lease that was released is taken at once": (follower(RELEASED), Write()),
    "a Lease under our name is our dead predecessor's, and taken at once": (follower(OURS), Write()),
    "one that others hold is waited for": (follower(unchanged=4), Wait(6)),
    "one that has not changed for its duration is taken": (follower(unchanged=10), Write()),
    "who could not write it tries again after a pause": (follower(RELEASED, tried=0.5), Wait(1.5)),
    "one that was deleted may still have a leader": (follower(None, unchanged=4), Wait(6)),
    "one that was deleted long ago is made anew": (follower(None, unchanged=10), Write()),
    "a leader renews after a pause": (leader(renewed=0.5), Wait(1.5)),
    "a leader renews when it is due": (leader(renewed=2), Write()),
    "a leader whose renewal failed tries again": (leader(renewed=4.5, tried=2), Write()),
    "a leader whose renewal failed just now waits no longer than it leads": (leader(renewed=6.5, tried=0), Wait(0.5)),
    "a leader whose last renewal is too old has lost": (leader(renewed=7, tried=1), unrenewed(7)),
    "a leader that woke long after has lost": (leader(renewed=3600), unrenewed(3600)),
    "a leader that sees another's name has lost": (leader(THEIRS), Lost("them holds the Lease")),
    "a leader whose name was taken off has lost": (leader(RELEASED), Lost("nobody holds the Lease")),
    "a leader whose Lease was deleted makes it anew": (leader(None, renewed=2), Write()),
}  # fmt: skip


@pytest.mark.parametrize(("view", "decision"), CASES.values(), ids=CASES)
def test_next(view: View, decision: Write | Wait | Lost) -> None:
    assert elect(view, NOW) == decision


def test_a_record_seen_again_is_no_change_and_an_older_one_is_none_either() -> None:
    view = View("us").saw(Record("them", 7), 1)
    assert view.saw(Record("them", 7), 2) == view
    assert view.saw(Record("us", 6), 2) == view
    assert view.saw(Record("them", 8), 2).changed == 2


def test_what_a_renewal_is_worth_counts_from_when_it_was_sent() -> None:
    view = View("us").wrote(OURS, sent=10, now=12)
    assert (view.until, elect(view, 12)) == (17, Write())
