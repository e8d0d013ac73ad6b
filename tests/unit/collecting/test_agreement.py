"""The report: who agrees with whom and with themselves, and who is flagged."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from collecting import LEASE, judge, some_items
from trainyard_trainer.collecting.agreement import report, side_is_unlikely
from trainyard_trainer.collecting.database import Database, open_database
from trainyard_trainer.collecting.voting import Vote, view, vote


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    opened = open_database(str(tmp_path / "votes.db"))
    yield opened
    opened.close()


def judge_all(database: Database, annotator: str, best: dict[str, int], seconds: float = 20.0) -> None:
    """Judge everything: by the item's entry in `best`, else for its first response."""
    now = 0.0
    while shown := view(database, annotator, LEASE, now).shown:
        now += seconds
        pick = shown.order.index(best.get(shown.item.id, 0))
        vote(database, annotator, Vote(shown.task, shown.showing, "prefer", (pick,)), now)


def test_agreement_of_two_who_differ_on_a_tenth(database: Database) -> None:
    """Each prefers the first of 25 items and the second of 25 (κ's shares 1/2), and they differ on five: κ = α = 0.8."""
    database.load(some_items(50), overlap=2)
    judge_all(database, "ada", {f"item-{n}": n % 2 for n in range(50)})
    judge_all(database, "bob", {f"item-{n}": (n % 2) ^ (n in (0, 1, 2, 3, 4)) for n in range(50)})
    told = report(database)
    (pair,) = told["kappa"]
    assert pair["annotators"] == ["ada", "bob"]
    assert pair["value"] == pytest.approx(0.8, abs=0.01)
    assert told["alpha"]["value"] == pytest.approx(0.8, abs=0.01)
    assert told["alpha"]["low"] < 0.8 < told["alpha"]["high"]
    assert told["seconds_median"] == 20.0
    assert told["scores"]["judgements"] == 100
    assert told["annotators"]["ada"]["flags"] == []


def test_who_always_picks_the_left_is_flagged(database: Database) -> None:
    database.load(some_items(30))
    for _ in range(30):
        shown = view(database, "lazy", LEASE, 0.0).shown
        assert shown
        vote(database, "lazy", Vote(shown.task, shown.showing, "prefer", (0,)), 0.5)
    told = report(database)["annotators"]["lazy"]
    assert told["left"]["value"] == 1.0
    assert [flag.split(":")[0] for flag in told["flags"]] == ["picks the left side in 30 of 30", "takes 0.0 s a vote"]


def test_a_reader_of_the_same_items_is_not(database: Database) -> None:
    database.load(some_items(60), repeats=0.2)
    judge_all(database, "reader", {})
    told = report(database)["annotators"]["reader"]
    assert told["flags"] == []
    assert told["self_agreement"]["value"] == 1.0
    assert told["self_agreement"]["units"] == 14


def test_who_contradicts_himself_is_flagged(database: Database) -> None:
    """Prefers the first response when an item comes first, the second when it comes again."""
    database.load(some_items(60), repeats=0.2)
    seen: set[str] = set()
    now = 0.0
    while shown := view(database, "fickle", LEASE, now).shown:
        now += 20
        again = shown.item.id in seen
        seen.add(shown.item.id)
        vote(database, "fickle", Vote(shown.task, shown.showing, "prefer", (shown.order.index(int(again)),)), now)
    told = report(database)["annotators"]["fickle"]
    assert told["self_agreement"]["value"] == 0.0
    assert told["flags"] == ["says the same again in 0 of 14 blind repeats"]


def test_who_prefers_nothing_is_flagged(database: Database) -> None:
    database.load(some_items(25))
    for number in range(25):
        judge(database, "shy", verdict="tie" if number % 2 else "both_bad", now=20.0 * number)
    told = report(database)
    assert told["annotators"]["shy"]["flags"][-1] == "prefers nothing in 25 votes"
    assert told["verdicts"] == {"prefer": 0, "tie": 12, "both_bad": 13, "skip": 0}


def test_a_report_of_nothing(database: Database) -> None:
    told = report(database)
    assert told["alpha"]["value"] is None
    assert told["annotators"] == told["scores"] == {}


@pytest.mark.parametrize(("left", "total", "expected"), [(10, 20, 1.0), (0, 10, 2 / 1024), (9, 10, 22 / 1024)])
def test_how_unlikely_sides_are(left: int, total: int, expected: float) -> None:
    assert side_is_unlikely(left, total) == pytest.approx(expected)
