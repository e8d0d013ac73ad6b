"""The same database, in a real PostgreSQL: twenty people at once, servers that start at once, and one that goes away."""

import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from collecting import LEASE, judge, some_items
from postgresql import postgresql
from sqlalchemy import make_url, select, text
from trainyard_trainer.collecting.agreement import report
from trainyard_trainer.collecting.database import Database, Tally, open_database
from trainyard_trainer.collecting.export import export
from trainyard_trainer.collecting.tables import tasks, votes
from trainyard_trainer.collecting.voting import Vote, undo, view, vote

PEOPLE = 20


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with postgresql() as url:
        yield url


@pytest.fixture(params=["postgresql", "sqlite"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    """A fresh one of each kind."""
    url = str(tmp_path / "votes.db")
    if request.param == "postgresql":
        url = fresh(request.getfixturevalue("server"))
    opened = open_database(url)
    yield opened
    opened.close()


def fresh(server: str) -> str:
    """The URL of a database that nobody has used."""
    admin = open_database(server)
    name = f"votes_{threading.get_native_id()}_{id(admin)}"
    with admin.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text(f"CREATE DATABASE {name}"))
    admin.close()
    return make_url(server).set(database=name).render_as_string(hide_password=False)


def at_once(work, people: int = PEOPLE) -> list[object]:
    """Have all of them do it, beginning together."""
    begin = threading.Barrier(people)

    def one(number: int) -> object:
        begin.wait(20)
        return work(f"annotator-{number}")

    with ThreadPoolExecutor(people) as pool:
        return [future.result(60) for future in [pool.submit(one, number) for number in range(people)]]


def test_twenty_at_once_never_hold_an_item_beyond_its_overlap(database: Database) -> None:
    database.load(some_items(8), overlap=2)
    shown = [seen.shown.item.id for seen in at_once(lambda name: view(database, name, LEASE)) if seen.shown]
    assert max(Counter(shown).values()) == 2
    assert len(shown) == 16  # all that are wanted, and no more


def test_twenty_at_once_judge_all_exactly_as_often_as_wanted(database: Database) -> None:
    database.load(some_items(12), overlap=3, repeats=0.2)

    def work(name: str) -> int:
        done = 0
        while judge(database, name):
            done += 1
        return done

    for _ in range(3):  # the first may have passed over what somebody else locked just then
        at_once(work)
    assert database.progress() == Tally(36, 36)
    with database.reading() as connection:
        counted = connection.execute(
            select(votes.c.item, votes.c.annotator)
            .join(tasks, votes.c.task == tasks.c.id)
            .where(tasks.c.slot.is_not(None))
        ).all()
    assert len(counted) == len(set(counted)) == 36
    assert set(Counter(item for item, _ in counted).values()) == {3}


def test_one_vote_sent_by_twenty_connections_counts_once(database: Database) -> None:
    database.load(some_items(2))
    shown = view(database, "ada", LEASE).shown
    assert shown
    given = Vote(shown.task, shown.showing, "prefer", (0,))
    at_once(lambda _: vote(database, "ada", given))
    assert database.progress() == Tally(1, 2)


def test_servers_that_start_at_once_make_the_tables_once(server: str) -> None:
    url = fresh(server)
    opened = at_once(lambda _: open_database(url), 4)
    for each in opened:
        each.load(some_items(3))
        assert each.progress() == Tally(0, 3)
        each.close()


def test_the_whole_way(database: Database, tmp_path: Path) -> None:
    """Votes, skips, undo, report and export, with text that a database could choke on."""
    database.load(some_items(30), overlap=2, repeats=0.1)
    for name, best in (("ada", 0), ("o'brien; DROP TABLE votes; --\u202e", 0), ("eve", 1)):
        for _ in range(20):
            judge(database, name, best)
        undo(database, name, LEASE)
        judge(database, name, verdict="skip")
    assert report(database)["annotators"]["eve"]["skips"] == 1
    exported = export(database, tmp_path / "out")
    assert exported.rows > 0
    assert sum(exported.left_out.values()) + exported.rows == 30


def test_commits_wait_for_the_disk(server: str) -> None:
    opened = open_database(fresh(server))
    with opened.reading() as connection:
        assert connection.scalar(text("SHOW synchronous_commit")) == "on"
        assert connection.scalar(text("SHOW fsync")) == "on"
    opened.close()
