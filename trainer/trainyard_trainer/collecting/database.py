"""Where votes are kept: a SQLite file, or PostgreSQL by its URL. A vote is on disk before anyone is told so.

SQLite: write-ahead log with synchronous=FULL, so a commit returns after its fsync; one writer at a time, by BEGIN IMMEDIATE
and a lock of this process, in whose queue nobody polls (SQLite's own wait sleeps up to 100 ms a try). PostgreSQL: its defaults
do that (synchronous_commit=on is asked for again, for a server may have it off), and rows are locked one by one.
SQLite needs a file system with locks; where several hosts share storage without them, give PostgreSQL's URL.
"""

import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alembic import command
from alembic.config import Config
from sqlalchemy import Connection, Engine, Table, create_engine, event, func, insert, not_, select, text, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, OperationalError

from ..errors import PermanentError, RetryableError
from .items import Item, judgeable
from .tables import annotators, items, retired, state, tasks

_MIGRATING = 0x747261696E
"""PostgreSQL's advisory lock under which tables are made, for servers that start at once."""


@dataclass(frozen=True)
class Tally:
    """Judgements made, of those wanted. Blind repeats and skips are none of them."""

    done: int
    wanted: int

    @property
    def met(self) -> bool:
        """Whether all is done."""
        return self.done >= self.wanted


@dataclass(frozen=True)
class Loaded:
    """How many items the database has now, and those that were left out, by reason."""

    items: int
    left_out: dict[str, int]


class Database:
    """A collection's votes. Safe in many threads; each method is one transaction."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self._writing = threading.Lock()

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """A transaction that changes nothing."""
        with self.engine.connect().execution_options(reading=True) as connection:
            yield connection

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        """A transaction that is on disk when the context is left, or never was."""
        if self.engine.dialect.name != "sqlite":
            with self.engine.begin() as connection:
                yield connection
            return
        with self._writing, self.engine.begin() as connection:
            yield connection

    def load(self, given: Iterable[Item], overlap: int = 1, repeats: float = 0.0) -> Loaded:
        """Have each item judged by `overlap` people, and about the share `repeats` of all judgements asked again, blindly.

        The same again changes nothing; more items or a larger overlap add to what is wanted. Items whose content has
        changed are refused: votes would be about something else.
        """
        sound = judgeable(given)
        with self.writing() as connection:
            there = {row.id: row.content for row in connection.execute(select(items.c.id, items.c.content))}
            number = connection.scalar(select(func.coalesce(func.max(items.c.number), -1))) or 0
            number = number if there else -1
            fresh = []
            for item in sound.items:
                content = item.model_dump(mode="json")
                if item.id not in there:
                    fresh.append({"id": item.id, "number": (number := number + 1), "content": content})
                elif there[item.id] != content:
                    raise PermanentError(
                        f"item {item.id}: is in the database with another prompt or other responses, and votes are about "
                        "those; give the stage another name, or its database another URL"
                    )
            if fresh:
                connection.execute(insert(items), fresh)
            had = {(row.item, row.slot) for row in connection.execute(select(tasks.c.item, tasks.c.slot))}
            wanted = [
                {"item": row.id, "number": row.number, "slot": slot}
                for row in connection.execute(select(items.c.id, items.c.number).order_by(items.c.number))
                for slot in range(overlap)
                if (row.id, slot) not in had
            ]
            if wanted:
                connection.execute(insert(tasks), wanted)
            slots = connection.scalar(select(func.count()).where(tasks.c.slot.is_not(None)))
            settings = {"overlap": overlap, "repeats": repeats, "slots": slots}
            if not connection.execute(update(state).values(settings)).rowcount:
                connection.execute(insert(state).values(id=1, **settings))
            total = connection.scalar(select(func.count()).select_from(items)) or 0
        return Loaded(total, sound.left_out)

    def progress(self) -> Tally:
        """How far the collection is."""
        with self.reading() as connection:
            return tally(connection)

    def close_voting(self) -> None:
        """Refuse votes from now on. Closing twice changes nothing."""
        with self.writing() as connection:
            connection.execute(update(state).where(state.c.closed_at.is_(None)).values(closed_at=time.time()))

    def reopen_voting(self) -> None:
        """Take votes again, for an overlap or items that were added."""
        with self.writing() as connection:
            connection.execute(update(state).values(closed_at=None))

    def revoke(self, annotator: str, now: float | None = None) -> None:
        """Void all links of `annotator` that were issued until now; their votes stay."""
        with self.writing() as connection:
            know(connection, annotator)
            moment = time.time() if now is None else now
            connection.execute(update(annotators).where(annotators.c.name == annotator).values(revoked_before=moment))

    def close(self) -> None:
        """Give all connections back."""
        self.engine.dispose()


def open_database(url: str) -> Database:
    """The database at `url`, a path or SQLAlchemy's URL, with its tables brought up to date.

    PermanentError if it is none that we can use, RetryableError if it can't be reached now.
    """
    try:
        parsed = make_url(url) if "://" in url else make_url(f"sqlite:///{url}")
    except ArgumentError:
        raise PermanentError(
            "collect.database: no URL of a database; write postgresql://USER:PASSWORD@HOST/NAME"
        ) from None
    if parsed.drivername in ("postgresql", "postgres"):
        parsed = parsed.set(drivername="postgresql+psycopg")
    shown = parsed.render_as_string(hide_password=True)
    if parsed.get_backend_name() == "sqlite":
        engine = _sqlite(parsed.database or "")
    elif parsed.get_backend_name() == "postgresql":
        engine = create_engine(parsed, pool_size=20, pool_pre_ping=True, connect_args={"connect_timeout": 10})
        event.listen(engine, "connect", _durable_postgresql)
    else:
        raise PermanentError(f"collect.database: {shown} is neither SQLite nor PostgreSQL, the two that are tested")
    database = Database(engine)
    try:
        _migrate(database)
    except OperationalError as error:
        raise RetryableError(f"collect.database: {shown} can't be used now: {str(error.orig).strip()}") from None
    return database


def tally(connection: Connection) -> Tally:
    """The same inside a transaction."""
    of_a_slot = tasks.c.slot.is_not(None)
    done = select(func.count()).where(tasks.c.done, of_a_slot).scalar_subquery()
    # Asked of each retired item, of which there are few: joined, SQLite would look at every open task.
    of_item = select(func.count()).where(tasks.c.item == items.c.id, not_(tasks.c.done), of_a_slot)
    given_up = select(func.coalesce(func.sum(of_item.correlate(items).scalar_subquery()), 0)).where(retired)
    row = connection.execute(select(done, state.c.slots - given_up.scalar_subquery())).first()
    return Tally(row[0], int(row[1])) if row else Tally(0, 0)  # PostgreSQL's sums are numeric


def know(connection: Connection, annotator: str, rule: str = "") -> None:
    """Have a row for the annotator, and hold it until the transaction ends: what one person does is done in turn."""
    connection.execute(insert_new(connection, annotators).values(name=annotator, rule=rule, first_seen=time.time()))
    connection.execute(select(annotators.c.name).where(annotators.c.name == annotator).with_for_update())


def insert_new(connection: Connection, table: Table) -> Any:
    """An insertion that leaves a row that is there as it is."""
    dialect = postgresql if connection.dialect.name == "postgresql" else sqlite
    return dialect.insert(table).on_conflict_do_nothing()


def _migrate(database: Database) -> None:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations").replace("%", "%%"))
    with database.writing() as connection:
        if connection.dialect.name == "postgresql":
            connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _MIGRATING})
        config.attributes["connection"] = connection
        command.upgrade(config, "head")


def _sqlite(path: str) -> Engine:
    engine = create_engine(f"sqlite:///{path}", connect_args={"timeout": 30, "check_same_thread": False})

    @event.listens_for(engine, "connect")
    def _durable(connection: Any, _: Any) -> None:
        connection.isolation_level = None  # the driver begins no transactions; `_begin` does
        for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
            connection.execute(f"PRAGMA {pragma}")

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        reading = connection.get_execution_options().get("reading")
        connection.exec_driver_sql("BEGIN" if reading else "BEGIN IMMEDIATE")

    return engine


def _durable_postgresql(connection: Any, _: Any) -> None:
    connection.execute("SET synchronous_commit = on")
    connection.execute("SET lock_timeout = '30s'")
    connection.commit()
