"""The server is killed again and again while people vote: nothing that it acknowledged is lost, nothing counts twice."""

import http.client
import random
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from collecting import Annotator, link
from conditions import eventually
from postgresql import postgresql
from serving import Serving
from sqlalchemy import select
from trainyard_trainer.collecting.database import Tally, open_database
from trainyard_trainer.collecting.tables import votes

PEOPLE, ITEMS, OVERLAP = 6, 30, 2
KILLS = {"sqlite": 3, "postgresql": 1}  # it takes a second to start anew


@pytest.fixture(params=KILLS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def url(kind: str, tmp_path: Path) -> Iterator[str]:
    """A fresh database, that outlives the server."""
    if kind == "sqlite":
        yield str(tmp_path / "votes.db")
    else:
        with postgresql() as made:
            yield made


class Person(threading.Thread):
    """Votes until all is done. What gets no answer is sent again, as the page does it."""

    def __init__(self, port: int, name: str) -> None:
        super().__init__(name=name, daemon=True)
        self.annotator = Annotator(port, link(name))
        self.acknowledged: list[tuple[int, int, str]] = []
        self.refused: list[str] = []

    def run(self) -> None:
        deadline = time.monotonic() + 240
        while time.monotonic() < deadline:
            seen = self._until_answered("GET", "/task", None)
            if seen.get("closed"):
                return
            if not (task := seen.get("task")):
                time.sleep(0.05)
                continue
            answer = random.choice(("1", "2", "tie", "both_bad"))
            form = {"form": seen["form"], "task": task["task"], "showing": task["showing"], "answer": answer}
            told = self._until_answered("POST", "/vote", form)
            if told.get("saved"):
                self.acknowledged.append((task["task"], task["showing"], answer))
            else:
                self.refused.append(told.get("error", ""))
            time.sleep(0.05)

    def _until_answered(self, method: str, path: str, form: dict[str, object] | None) -> dict[str, object]:
        while True:
            try:
                answer = self.annotator.ask(method, path, form)
                if answer.status < 500:
                    return answer.json()
            except (OSError, http.client.HTTPException):
                # The server ends by itself after the last vote.
                if self.stopped.is_set():
                    return {"closed": True}
            time.sleep(0.05)

    stopped = threading.Event()


def test_no_vote_is_lost_and_none_counts_twice(kind: str, url: str, tmp_path: Path) -> None:
    Person.stopped = threading.Event()
    serving = Serving(url, ITEMS, OVERLAP, tmp_path / "server.txt")
    with serving:
        people = [Person(serving.port, f"person-{number}") for number in range(PEOPLE)]
        for person in people:
            person.start()
        for number in range(1, KILLS[kind] + 1):
            enough = number * ITEMS * OVERLAP // (KILLS[kind] + 2)
            eventually(lambda: sum(len(person.acknowledged) for person in people) >= enough, 60, f"{enough} votes")  # noqa: B023
            serving.kill()
            serving.start()
        assert f"Tally(done={ITEMS * OVERLAP}" in serving.ended()
        Person.stopped.set()
        for person in people:
            person.join(20)

    database = open_database(url)
    assert database.progress() == Tally(ITEMS * OVERLAP, ITEMS * OVERLAP)
    with database.reading() as connection:
        rows = connection.execute(
            select(votes.c.task, votes.c.showing, votes.c.verdict, votes.c.ranks, votes.c.shown)
        ).all()
    database.close()
    kept = {(row.task, row.showing): row for row in rows}
    assert len(kept) == len(rows)
    for task, showing, answer in (each for person in people for each in person.acknowledged):
        row = kept.pop((task, showing))
        expected = answer if answer in ("tie", "both_bad") else "prefer"
        assert row.verdict == expected
        if expected == "prefer":
            assert row.ranks[row.shown[int(answer) - 1]] == 0
    assert not kept or len(kept) <= PEOPLE  # taken at the very end, whose answer the server's own end cut off
    assert not [why for person in people for why in person.refused if "closed" not in why]
