"""How long an annotator waits for a vote to be taken, with twenty at once: from sending it until the server says that it is on
disk. Beside it the next page, and how many votes a second the server takes when nobody thinks in between.

A real server in a process of its own, over HTTP, on SQLite and on PostgreSQL where there is one; 2,000 items to be judged by
three, a tenth blind repeats. People think 0.5 to 1.5 s here, a tenth of what reading takes, so it is the load of two hundred.
"""

import http.client
import json
import random
import statistics
import tempfile
import threading
import time
import urllib.parse
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from collecting import link
from postgresql import installed, postgresql
from serving import Serving
from trainyard_trainer.collecting.application import COOKIE

from .figures import Figure, Results, main

PEOPLE = 20
ITEMS = 2000
BAR_MS = 100.0


class Person(threading.Thread):
    """Votes until told to stop, on one connection, as a browser does."""

    def __init__(self, port: int, name: str, think: Callable[[], float], stop: threading.Event) -> None:
        super().__init__(name=name, daemon=True)
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        self._headers = {"Cookie": f"{COOKIE}={link(name)}", "Accept": "application/json"}
        self._think, self._stop_voting = think, stop
        self.failure: Exception | None = None
        self.votes_ms: list[float] = []
        self.pages_ms: list[float] = []

    def run(self) -> None:
        try:
            self._vote()
        except Exception as error:
            self.failure = error

    def _vote(self) -> None:
        while not self._stop_voting.wait(self._think()):
            began = time.perf_counter()
            seen = json.loads(self._ask("GET", "/task"))
            self.pages_ms.append(1e3 * (time.perf_counter() - began))
            form = {"form": seen["form"], **{name: seen["task"][name] for name in ("task", "showing")}}
            began = time.perf_counter()
            self._ask("POST", "/vote", urllib.parse.urlencode({**form, "answer": random.choice("12")}))
            self.votes_ms.append(1e3 * (time.perf_counter() - began))

    def _ask(self, method: str, path: str, body: str | None = None) -> bytes:
        self._connection.request(method, path, body, self._headers)
        answer = self._connection.getresponse()
        content = answer.read()
        if answer.status != 200:
            raise RuntimeError(f"{method} {path}: {answer.status} {content[:200]!r}")
        return content


def measure(quick: bool) -> Results:
    """Rows of the table and figures, in milliseconds."""
    rows = [
        ["20 annotators", "vote, median", "95 %", "longest", "next task, 95 %", "votes", "votes/s without thinking"]
    ]
    figures = []
    for kind, database in {"SQLite": _sqlite, "PostgreSQL": postgresql}.items():
        if kind == "PostgreSQL" and not installed():
            continue
        seconds = 3.0 if quick else 10.0
        with tempfile.NamedTemporaryFile() as log, database() as url, Serving(url, ITEMS, 3, Path(log.name)) as serving:
            _vote(serving.port, lambda: 0.05, 1.0)  # connections, caches
            calm = _vote(serving.port, lambda: random.uniform(0.5, 1.5), 6.0 if quick else 30.0)
            rush = _vote(serving.port, lambda: 0.0, seconds)
        votes = sorted(each for person in calm for each in person.votes_ms)
        pages = [each for person in calm for each in person.pages_ms]
        p95 = statistics.quantiles(votes, n=20)[-1]
        rate = sum(len(person.votes_ms) for person in rush) / seconds
        page95 = statistics.quantiles(pages, n=20)[-1]
        cells = [f"{value:.1f}" for value in (statistics.median(votes), p95, votes[-1], page95)]
        rows.append([kind, *cells, str(len(votes)), f"{rate:.0f}"])
        figures.append(Figure(f"{kind.lower()}_vote_p95_ms", p95, BAR_MS))
        figures.append(Figure(f"{kind.lower()}_votes_per_second", rate))
    return rows, figures


def _vote(port: int, think: Callable[[], float], seconds: float) -> list[Person]:
    """Have all of them vote for so long."""
    stop = threading.Event()
    people = [Person(port, f"person-{number}", think, stop) for number in range(PEOPLE)]
    for person in people:
        person.start()
    time.sleep(seconds)
    stop.set()
    for person in people:
        person.join(60)
        if person.failure:
            raise person.failure
    return people


@contextmanager
def _sqlite() -> Iterator[str]:
    with tempfile.TemporaryDirectory() as folder:
        yield str(Path(folder) / "votes.db")


if __name__ == "__main__":
    main("collecting", __doc__.splitlines()[0], measure)
