"""What an annotator is shown next, and what becomes of the answer. Every function is one transaction.

Whoever is shown a task holds it for `lease_seconds`; nobody else gets it meanwhile, and afterwards it is theirs still until
somebody else needs it. Each showing of a task has a number; a vote names it, so a vote that is sent twice, because the answer
to the first was lost with the server, counts once. Who skips gets the item again only when nothing else is left.

Blind repeats: with a share r, after each 1/r votes of an annotator one of their own items comes again, in a new order, at
least `REPEAT_DISTANCE` votes later. Nothing on the page tells it from others.
"""

import random
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from sqlalchemy import Connection, Row, Select, and_, exists, func, insert, not_, or_, select, update
from trainyard_api.links import Claims, LinkError

from .database import Database, Tally, know, tally
from .items import Item
from .tables import annotators, items, retired, state, tasks, votes

Verdict = Literal["prefer", "tie", "both_bad", "skip"]
REPEAT_DISTANCE = 5
MAX_NOTE = 2000

_ORDER = random.SystemRandom()


class RefusedError(Exception):
    """A vote that can't be taken; str(e) says why, for the annotator."""


class ClosedError(RefusedError):
    """Voting is over."""


@dataclass(frozen=True)
class Shown:
    """A task as an annotator sees it. `order[k]` is which of the item's responses stands in place k."""

    task: int
    showing: int
    item: Item
    order: tuple[int, ...]


@dataclass(frozen=True)
class View:
    """What the page shows: a task, or none, and how far all and this annotator are."""

    shown: Shown | None
    tally: Tally
    mine: int
    can_undo: bool
    closed: bool


@dataclass(frozen=True)
class Vote:
    """An answer: `picks` are places on the page, best first; places that aren't named share the last rank."""

    task: int
    showing: int
    verdict: Verdict
    picks: tuple[int, ...] = ()
    note: str = ""
    guidelines: str = ""
    """Digest of those that the annotator had before them."""


def admit(database: Database, claims: Claims) -> None:
    """Note that an annotator has come. LinkError if their links were revoked after this one was issued."""
    with database.reading() as connection:
        row = connection.execute(select(annotators).where(annotators.c.name == claims.annotator)).first()
    if row and claims.issued <= row.revoked_before:
        raise LinkError("This link was revoked. Please ask for a new one.")
    if row and row.rule == claims.rule:
        return
    with database.writing() as connection:
        know(connection, claims.annotator, claims.rule)
        if claims.rule:
            connection.execute(update(annotators).where(annotators.c.name == claims.annotator).values(rule=claims.rule))


def view(database: Database, annotator: str, lease_seconds: float, now: float | None = None) -> View:
    """What the annotator is to see now; a task is theirs with it."""
    now = time.time() if now is None else now
    with database.writing() as connection:
        know(connection, annotator)
        closed = _closed(connection)
        shown = None if closed else _next(connection, annotator, lease_seconds, now)
        counted = and_(votes.c.annotator == annotator, votes.c.undone.is_(None))
        mine = connection.scalar(select(func.count()).where(counted, votes.c.verdict != "skip")) or 0
        can_undo = not closed and connection.execute(select(exists().where(counted))).scalar_one()
        return View(shown, tally(connection), mine, can_undo, closed)


def vote(database: Database, annotator: str, given: Vote, now: float | None = None) -> Tally:
    """Take a vote. It is on disk when this returns; the same again changes nothing. RefusedError says why it can't be taken."""
    now = time.time() if now is None else now
    with database.writing() as connection:
        know(connection, annotator)
        again = (votes.c.task == given.task) & (votes.c.showing == given.showing) & (votes.c.annotator == annotator)
        if connection.execute(select(votes.c.id).where(again)).first():
            return tally(connection)
        if _closed(connection):
            raise ClosedError("Voting is closed. Thank you for all your votes; this one came too late.")
        task = connection.execute(select(tasks).where(tasks.c.id == given.task).with_for_update()).first()
        if not task or task.annotator != annotator or task.showing != given.showing or task.done:
            raise RefusedError(
                "This comparison is not yours any more: it was shown too long ago, or in another window."
            )
        ranks = _ranks(given, task.shown)
        latest = select(votes.c.at).where(votes.c.annotator == annotator).order_by(votes.c.id.desc()).limit(1)
        free = connection.scalar(latest) or 0.0
        connection.execute(
            insert(votes).values(
                task=task.id,
                showing=task.showing,
                item=task.item,
                annotator=annotator,
                verdict=given.verdict,
                ranks=ranks,
                shown=task.shown,
                note=given.note[:MAX_NOTE],
                seconds=round(max(0.0, now - max(task.shown_at, free)), 3),
                guidelines=given.guidelines,
                at=now,
            )
        )
        skipped = given.verdict == "skip"
        if skipped and task.slot is not None:
            connection.execute(update(items).where(items.c.id == task.item).values(skips=items.c.skips + 1))
            change: dict[str, Any] = {"annotator": None, "leased_until": 0.0}
        else:
            change = {"done": True}
        connection.execute(update(tasks).where(tasks.c.id == task.id).values(change))
        after = tally(connection)
        if after.met:
            connection.execute(update(state).where(state.c.closed_at.is_(None)).values(closed_at=now))
        return after


def undo(database: Database, annotator: str, lease_seconds: float, now: float | None = None) -> None:
    """Take the annotator's last vote or skip back; what it was about is shown to them again. It stays in the log, as undone."""
    now = time.time() if now is None else now
    with database.writing() as connection:
        know(connection, annotator)
        if _closed(connection):
            raise ClosedError("Voting is closed; votes can't be taken back any more.")
        counted = (votes.c.annotator == annotator) & votes.c.undone.is_(None)
        last = connection.execute(select(votes).where(counted).order_by(votes.c.id.desc()).limit(1)).first()
        if not last:
            raise RefusedError("There is nothing to take back.")
        task = connection.execute(select(tasks).where(tasks.c.id == last.task).with_for_update()).one()
        if last.verdict == "skip" and task.slot is not None:
            if task.annotator is not None:
                raise RefusedError("Somebody else has that comparison now.")
            connection.execute(update(items).where(items.c.id == task.item).values(skips=items.c.skips - 1))
        connection.execute(update(votes).where(votes.c.id == last.id).values(undone=now))
        _show(connection, task, annotator, lease_seconds, now)


def _next(connection: Connection, annotator: str, lease_seconds: float, now: float) -> Shown | None:
    """The task that the annotator holds already, else a repeat that is due, else an open one; None if there is none now."""
    held = select(tasks).where(tasks.c.annotator == annotator, not_(tasks.c.done)).order_by(tasks.c.shown_at.desc())
    if task := connection.execute(held.limit(1)).first():
        connection.execute(update(tasks).where(tasks.c.id == task.id).values(leased_until=now + lease_seconds))
        return _shown(connection, task)
    if task := _repeat(connection, annotator):
        return _show(connection, task, annotator, lease_seconds, now)
    skipped = select(votes.c.item).where(
        votes.c.annotator == annotator, votes.c.verdict == "skip", votes.c.undone.is_(None)
    )
    open_to_me = _open_to(annotator, now)
    for query in (open_to_me.where(tasks.c.item.not_in(skipped)), open_to_me):
        if task := connection.execute(query).first():
            return _show(connection, task, annotator, lease_seconds, now)
    return None


def _open_to(annotator: str, now: float) -> Select[Any]:
    """The first open task of an item that the annotator has no other task of. Rows that others lock are passed."""
    mine = select(tasks.c.item).where(tasks.c.annotator == annotator, tasks.c.slot.is_not(None))
    return (
        select(tasks)
        .join(items)
        .where(
            not_(tasks.c.done),
            tasks.c.slot.is_not(None),
            or_(tasks.c.annotator.is_(None), tasks.c.leased_until < now),
            not_(retired),
            tasks.c.item.not_in(mine),
        )
        .order_by(tasks.c.slot, tasks.c.number)
        .limit(1)
        .with_for_update(of=tasks, skip_locked=True)
    )


def _repeat(connection: Connection, annotator: str) -> Row[Any] | None:
    """A new task that asks the annotator again, if one is due."""
    share = connection.scalar(select(state.c.repeats)) or 0.0
    mine = (tasks.c.annotator == annotator) & tasks.c.done
    first = connection.scalar(select(func.count()).where(mine, tasks.c.slot.is_not(None))) or 0
    again = connection.scalar(select(func.count()).where(mine, tasks.c.slot.is_(None))) or 0
    if not share or (again + 1) > (first + again) * share:
        return None
    recent = (
        select(votes.c.id)
        .where(votes.c.annotator == annotator, votes.c.undone.is_(None))
        .order_by(votes.c.id.desc())
        .limit(REPEAT_DISTANCE)
    )
    oldest = (
        select(tasks)
        .join(votes, votes.c.task == tasks.c.id)
        .where(
            mine,
            tasks.c.slot.is_not(None),
            votes.c.undone.is_(None),
            votes.c.verdict != "skip",
            votes.c.id.not_in(recent),
            tasks.c.id.not_in(select(tasks.c.repeats).where(tasks.c.repeats.is_not(None))),
        )
        .order_by(votes.c.id)
        .limit(1)
    )
    if not (original := connection.execute(oldest).first()):
        return None
    values = {"item": original.item, "number": original.number, "repeats": original.id}
    made = connection.execute(insert(tasks).values(values)).inserted_primary_key
    return connection.execute(select(tasks).where(tasks.c.id == made[0])).one() if made else None


def _show(connection: Connection, task: Row[Any], annotator: str, lease_seconds: float, now: float) -> Shown:
    """Have the annotator hold the task, in a new random order."""
    content = connection.scalar(select(items.c.content).where(items.c.id == task.item))
    item = Item.model_validate(content)
    order = tuple(_ORDER.sample(range(len(item.responses)), len(item.responses)))
    showing = task.showing + 1
    connection.execute(
        update(tasks)
        .where(tasks.c.id == task.id)
        .values(
            annotator=annotator,
            leased_until=now + lease_seconds,
            showing=showing,
            shown=list(order),
            shown_at=now,
            done=False,
        )
    )
    return Shown(task.id, showing, item, order)


def _shown(connection: Connection, task: Row[Any]) -> Shown:
    content = connection.scalar(select(items.c.content).where(items.c.id == task.item))
    return Shown(task.id, task.showing, Item.model_validate(content), tuple(task.shown))


def _ranks(given: Vote, shown: Sequence[int]) -> list[int]:
    """The rank of each of the item's responses, 0 the best; equal ranks are ties."""
    ranks = [0] * len(shown)
    if given.verdict != "prefer":
        return ranks
    if not given.picks or len(set(given.picks)) < len(given.picks) or not all(0 <= p < len(shown) for p in given.picks):
        raise RefusedError("Please choose a response, or rank them, each once.")
    ranks = [len(given.picks)] * len(shown)
    for rank, place in enumerate(given.picks):
        ranks[shown[place]] = rank
    return ranks


def _closed(connection: Connection) -> bool:
    return connection.scalar(select(state.c.closed_at)) is not None
