"""Who acts, of several operators that all watch: what one candidate does next, from what it knows of the Lease.

Clocks of two machines are never compared. A candidate may take the Lease once its record hasn't changed for LEASE_SECONDS on
the candidate's own monotonic clock; the leader stops writing RENEW_SECONDS after it sent the last renewal that succeeded.
The record changed after that moment, so the leader has stopped at least 3 s before another can take over.

A leader that dies is succeeded within LEASE_SECONDS and a moment: 15 s are promised, lists of 10,000 pods take 1 s, a first
call that fails 2 s. client-go's defaults (15, 10 and 2 s) would take 17. Two renewals may fail before the third is late.
"""

from dataclasses import dataclass, replace

LEASE_SECONDS = 10
"""Age of a record at which its holder counts as gone."""
RENEW_SECONDS = 7.0
"""Age of the last renewal at which its sender stops writing, and ends."""
RETRY_SECONDS = 2.0
"""From one write of the record to the next, whether it succeeded or not."""


@dataclass(frozen=True)
class Record:
    """What a Lease says. No holder: it was released. The version changes, and grows, with every write."""

    holder: str
    version: int
    transitions: int = 0


@dataclass(frozen=True)
class View:
    """All that the candidate `me` knows. Times are of its own monotonic clock; at the start there is nothing to know.

    Names are such that another process with our name is a dead one: pods' names, and a pod runs one operator at a time.
    """

    me: str
    record: Record | None = None
    changed: float = float("-inf")
    """When the record was first seen as it is."""
    tried: float = float("-inf")
    """When our last write of it was sent."""
    renewed: float | None = None
    """When our last write of it that succeeded was sent; None unless we lead."""

    @property
    def until(self) -> float:
        """When we must have stopped writing."""
        return float("-inf") if self.renewed is None else self.renewed + RENEW_SECONDS

    def saw(self, record: Record | None, now: float) -> "View":
        """After the record was read, or told by a watch, which may be late. None: there is no Lease."""
        if record == self.record or (record and self.record and record.version <= self.record.version):
            return self
        return replace(self, record=record, changed=now)

    def wrote(self, record: Record, sent: float, now: float) -> "View":
        """After our write, sent at `sent`, succeeded."""
        return replace(self, record=record, changed=now, tried=sent, renewed=sent)

    def failed(self, sent: float) -> "View":
        """After our write, sent at `sent`, did not, or may not have, succeeded."""
        return replace(self, tried=sent)


@dataclass(frozen=True)
class Write:
    """Write our name over the record now, if it is still what we know."""


@dataclass(frozen=True)
class Wait:
    """Do nothing for so long, or until something is seen."""

    seconds: float


@dataclass(frozen=True)
class Lost:
    """We led, and may not write any more."""

    why: str


def elect(view: View, now: float) -> Write | Wait | Lost:
    """What to do next, whether we lead or would like to.

    A Lease that someone deletes may still have a leader, who doesn't know yet: it counts as held until it would expire.
    """
    record = view.record
    again = view.tried + RETRY_SECONDS
    if view.renewed is not None:
        if record and record.holder != view.me:
            return Lost(f"{record.holder or 'nobody'} holds the Lease")
        if now >= view.until:
            return Lost(f"the Lease was not renewed for {now - view.renewed:.1f} s")
        due = min(again, view.until)
    elif record and record.holder in ("", view.me):
        due = again
    else:
        due = max(again, view.changed + LEASE_SECONDS)
    return Write() if now >= due else Wait(due - now)
