"""Who is shown what, and what becomes of votes, on SQLite; tests/local/collecting asks PostgreSQL the same."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from collecting import LEASE, judge, some_items
from sqlalchemy import inspect, select
from trainyard_trainer.collecting.database import Database, Tally, open_database
from trainyard_trainer.collecting.items import Item, Response
from trainyard_trainer.collecting.tables import METADATA, votes
from trainyard_trainer.collecting.voting import ClosedError, RefusedError, Shown, Vote, undo, view, vote
from trainyard_trainer.errors import PermanentError, RetryableError


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    opened = open_database(str(tmp_path / "votes.db"))
    yield opened
    opened.close()


def shown_to(database: Database, annotator: str, now: float | None = None) -> Shown:
    """What they see; there must be something."""
    shown = view(database, annotator, LEASE, now).shown
    assert shown
    return shown


def log(database: Database) -> list[tuple[str, str, list[int]]]:
    """Annotator, verdict and ranks of all votes that count."""
    with database.reading() as connection:
        query = select(votes.c.annotator, votes.c.verdict, votes.c.ranks).where(votes.c.undone.is_(None))
        return [tuple(row) for row in connection.execute(query.order_by(votes.c.id))]


def test_the_migrations_make_what_the_tables_say(database: Database) -> None:
    found = inspect(database.engine)
    for table in METADATA.sorted_tables:
        assert {column["name"] for column in found.get_columns(table.name)} == set(table.columns.keys())
        assert {index["name"] for index in found.get_indexes(table.name)} >= {index.name for index in table.indexes}


def test_a_commit_waits_for_the_disk(database: Database) -> None:
    with database.reading() as connection:
        assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"
        assert connection.exec_driver_sql("PRAGMA synchronous").scalar() == 2  # FULL


def test_loading_again_changes_nothing_and_more_adds(database: Database) -> None:
    database.load(some_items(3), overlap=2)
    assert database.progress() == Tally(0, 6)
    database.load(some_items(3), overlap=2)
    assert database.progress() == Tally(0, 6)
    database.load(some_items(4), overlap=3)
    assert database.progress() == Tally(0, 12)


def test_items_that_changed_are_refused(database: Database) -> None:
    database.load(some_items(1))
    changed = Item(id="item-0", prompt="Another?", responses=(Response(text="x"), Response(text="y")))
    with pytest.raises(PermanentError, match="item-0"):
        database.load([changed])


def test_items_that_nobody_can_judge_are_counted(database: Database) -> None:
    def item(name: str, prompt: str, *texts: str) -> Item:
        return Item(id=name, prompt=prompt, responses=tuple(Response(text=text) for text in texts))

    given = [item("a", " ", "x", "y"), item("b", "q", "x", ""), item("c", "q", "x", "x "), item("d", "q", "x", "y")] * 2
    loaded = database.load(given)
    assert loaded.items == 1
    assert loaded.left_out == {"no prompt": 2, "empty response": 2, "equal responses": 2, "id used twice": 1}


def test_everybody_judges_an_item_once_and_the_last_vote_closes(database: Database) -> None:
    database.load(some_items(3), overlap=2)
    assert [judge(database, "ada") for _ in range(4)] == ["item-0", "item-1", "item-2", None]
    assert [judge(database, "bob") for _ in range(4)] == ["item-0", "item-1", "item-2", None]
    assert database.progress() == Tally(6, 6)
    assert view(database, "ada", LEASE).closed


def test_no_item_is_held_by_more_than_its_overlap(database: Database) -> None:
    database.load(some_items(1), overlap=2)
    assert shown_to(database, "ada").item == shown_to(database, "bob").item
    assert view(database, "eve", LEASE).shown is None


def test_the_same_is_shown_until_it_is_judged(database: Database) -> None:
    database.load(some_items(3))
    assert shown_to(database, "ada") == shown_to(database, "ada")


def test_what_was_held_too_long_goes_to_who_asks_next(database: Database) -> None:
    database.load(some_items(1))
    first = shown_to(database, "ada", now=0.0)
    assert view(database, "bob", LEASE, now=LEASE - 1).shown is None
    second = shown_to(database, "bob", now=LEASE + 1)
    with pytest.raises(RefusedError, match="not yours"):
        vote(database, "ada", Vote(first.task, first.showing, "tie"))
    assert vote(database, "bob", Vote(second.task, second.showing, "tie")) == Tally(1, 1)


def test_a_late_vote_counts_while_nobody_else_was_asked(database: Database) -> None:
    database.load(some_items(1))
    shown = shown_to(database, "ada", now=0.0)
    assert vote(database, "ada", Vote(shown.task, shown.showing, "tie"), now=10 * LEASE) == Tally(1, 1)


def test_a_vote_that_is_sent_again_counts_once_even_after_closing(database: Database) -> None:
    database.load(some_items(1))
    shown = shown_to(database, "ada")
    given = Vote(shown.task, shown.showing, "prefer", (0,))
    assert vote(database, "ada", given) == vote(database, "ada", given) == Tally(1, 1)
    assert len(log(database)) == 1


def test_a_vote_for_another_persons_task_is_refused(database: Database) -> None:
    database.load(some_items(2))
    shown = shown_to(database, "ada")
    with pytest.raises(RefusedError):
        vote(database, "eve", Vote(shown.task, shown.showing, "tie"))
    with pytest.raises(RefusedError):
        vote(database, "eve", Vote(12345, 1, "tie"))


def test_a_vote_after_closing_is_refused(database: Database) -> None:
    database.load(some_items(2))
    shown = shown_to(database, "ada")
    database.close_voting()
    with pytest.raises(ClosedError, match="closed"):
        vote(database, "ada", Vote(shown.task, shown.showing, "tie"))
    with pytest.raises(ClosedError):
        undo(database, "ada", LEASE)


def test_votes_are_about_responses_whatever_their_place(database: Database) -> None:
    database.load(some_items(40))
    orders = set()
    for _ in range(40):
        orders.add(shown_to(database, "ada").order)
        judge(database, "ada", best=1)
    assert orders == {(0, 1), (1, 0)}
    assert log(database) == [("ada", "prefer", [1, 0])] * 40


def test_ranking_several(database: Database) -> None:
    database.load(some_items(1, responses=4))
    shown = shown_to(database, "ada")
    vote(database, "ada", Vote(shown.task, shown.showing, "prefer", tuple(shown.order.index(it) for it in (2, 0))))
    assert log(database) == [("ada", "prefer", [1, 2, 0, 2])]


@pytest.mark.parametrize("picks", [(), (0, 0), (2,), (-1,)])
def test_picks_that_name_no_response(database: Database, picks: tuple[int, ...]) -> None:
    database.load(some_items(1))
    shown = shown_to(database, "ada")
    with pytest.raises(RefusedError, match="choose"):
        vote(database, "ada", Vote(shown.task, shown.showing, "prefer", picks))


def test_undo_goes_back_step_by_step(database: Database) -> None:
    database.load(some_items(4))
    for _ in range(2):
        judge(database, "ada")
    waiting = shown_to(database, "ada").item.id
    undo(database, "ada", LEASE)
    undo(database, "ada", LEASE)
    assert database.progress().done == 0
    assert [judge(database, "ada", 1) for _ in range(3)] == ["item-0", "item-1", waiting]
    assert log(database) == [("ada", "prefer", [1, 0])] * 3


def test_an_old_vote_does_not_come_back_after_it_was_undone(database: Database) -> None:
    database.load(some_items(2))
    shown = shown_to(database, "ada")
    given = Vote(shown.task, shown.showing, "prefer", (0,))
    vote(database, "ada", given)
    undo(database, "ada", LEASE)
    vote(database, "ada", given)  # its copy, late by the network
    assert database.progress().done == 0


def test_nothing_to_undo(database: Database) -> None:
    database.load(some_items(1))
    with pytest.raises(RefusedError, match="nothing"):
        undo(database, "ada", LEASE)


def test_what_was_skipped_comes_back_last_and_goes_after_three(database: Database) -> None:
    database.load(some_items(2))
    assert judge(database, "ada", verdict="skip") == "item-0"
    assert judge(database, "ada", verdict="tie") == "item-1"
    assert database.progress() == Tally(1, 2)
    assert judge(database, "ada", verdict="skip") == "item-0"
    assert judge(database, "bob", verdict="skip") == "item-0"
    assert database.progress() == Tally(1, 1)


def test_a_skip_can_be_undone_unless_somebody_else_took_over(database: Database) -> None:
    database.load(some_items(1))
    judge(database, "ada", verdict="skip")
    undo(database, "ada", LEASE)
    assert judge(database, "ada", verdict="skip") == "item-0"
    shown_to(database, "bob")
    with pytest.raises(RefusedError, match="Somebody else"):
        undo(database, "ada", LEASE)


def test_blind_repeats_come_at_their_share_and_count_for_nothing_wanted(database: Database) -> None:
    database.load(some_items(40), repeats=0.2)
    seen = []
    while (item := judge(database, "ada")) is not None:
        seen.append(item)
    again = [place for place, item in enumerate(seen) if item in seen[:place]]
    assert len(again) == 9  # of 49
    assert all(place - seen.index(seen[place]) > 5 for place in again)
    assert database.progress() == Tally(40, 40)


def test_a_vote_takes_from_when_the_annotator_was_free(database: Database) -> None:
    database.load(some_items(3))
    shown = shown_to(database, "ada", now=100.0)
    vote(database, "ada", Vote(shown.task, shown.showing, "tie"), now=112.5)
    shown = shown_to(database, "ada", now=113.0)
    vote(database, "ada", Vote(shown.task, shown.showing, "tie"), now=120.0)
    with database.reading() as connection:
        assert list(connection.scalars(select(votes.c.seconds))) == [12.5, 7.0]


@pytest.mark.parametrize("url", ["mysql://host/x", "nonsense://"])
def test_databases_that_are_not_tested_are_refused(url: str) -> None:
    with pytest.raises(PermanentError, match=r"collect\.database"):
        open_database(url)


def test_a_database_that_is_away_is_tried_again_and_its_password_not_shown() -> None:
    with pytest.raises(RetryableError, match="now") as caught:
        open_database("postgresql://user:secret@127.0.0.1:1/votes")
    assert "secret" not in str(caught.value)
