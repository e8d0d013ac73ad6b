"""A collection for tests: items, a server in a thread, and annotators who speak HTTP to it as browsers do."""

import http.client
import json
import threading
import time
import urllib.parse
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from conditions import eventually
from trainyard_api.links import sign
from trainyard_trainer.collecting.application import COOKIE
from trainyard_trainer.collecting.database import Database
from trainyard_trainer.collecting.items import Item, Response
from trainyard_trainer.collecting.server import serve
from trainyard_trainer.collecting.settings import ServerSettings
from trainyard_trainer.collecting.voting import Vote, view, vote

KEY = b"a key of tests, of thirty-two B."
LEASE = 600.0


def some_items(count: int, responses: int = 2, prefix: str = "item") -> list[Item]:
    """Items whose responses say of themselves which they are; each model writes at the same place."""
    return [
        Item(
            id=f"{prefix}-{number}",
            prompt=f"Question {number}?",
            responses=tuple(
                Response(text=f"answer {letter} to {number}", model=f"model-{letter}")
                for letter in "abcdefghi"[:responses]
            ),
        )
        for number in range(count)
    ]


def link(name: str, **claims: Any) -> str:
    """A token that works for an hour."""
    return sign(KEY, name, time.time() + 3600, **claims)


def judge(
    database: Database, annotator: str, best: int = 0, verdict: Any = "prefer", now: float | None = None
) -> str | None:
    """Vote once, for the response at `best` in the item's own order; the item's id, None if there was nothing to judge."""
    shown = view(database, annotator, LEASE, now).shown
    if shown is None:
        return None
    picks = (shown.order.index(best),) if verdict == "prefer" else ()
    vote(database, annotator, Vote(shown.task, shown.showing, verdict, picks), now)
    return shown.item.id


@dataclass
class Answer:
    """What a server answered."""

    status: int
    headers: http.client.HTTPMessage
    text: str

    def json(self) -> Any:
        return json.loads(self.text)


class Annotator:
    """One who votes over HTTP. `token` is sent as the cookie that their link sets."""

    def __init__(self, port: int, token: str, headers: dict[str, str] | None = None, host: str = "127.0.0.1") -> None:
        self._host, self._port = host, port
        self._headers = {"Cookie": f"{COOKIE}={token}", "Accept": "application/json", **(headers or {})}

    @classmethod
    def by_link(cls, link: str) -> "Annotator":
        """Whom a personal link lets in."""
        address, token = link.strip().removeprefix("http://").split("/enter/")
        host, port = address.split(":")
        return cls(int(port), token, host=host)

    def ask(self, method: str, path: str, body: dict[str, Any] | bytes | None = None, **headers: str) -> Answer:
        """One request, by a connection of its own."""
        sent = urllib.parse.urlencode(body) if isinstance(body, dict) else body
        connection = http.client.HTTPConnection(self._host, self._port, timeout=20)
        try:
            connection.request(method, path, sent, {**self._headers, **headers})
            answer = connection.getresponse()
            return Answer(answer.status, answer.headers, answer.read().decode())
        finally:
            connection.close()

    def served(self) -> bool:
        """Whether there is a page to vote on."""
        try:
            return self.ask("GET", "/healthz").status == 200
        except OSError:
            return False

    def task(self) -> dict[str, Any]:
        """What there is to judge, and the form's token."""
        return dict(self.ask("GET", "/task").json())

    def answer(self, answer: str, **fields: Any) -> Answer:
        """Answer what is shown."""
        seen = self.task()
        shown = seen["task"]
        form = {"form": seen["form"], "task": shown["task"], "showing": shown["showing"], "answer": answer, **fields}
        return self.ask("POST", "/vote", form)


def rate(rater: Annotator, score: Callable[[str], float], times: int) -> int:
    """Prefer the response of the higher score, so often, or until nothing is left, when the page is soon gone. Returns how
    often it was.
    """
    for done in range(times):
        try:
            shown = rater.task().get("task")
        except OSError:
            shown = None
        if not shown:
            return done
        first, second = map(score, shown["responses"])
        given = rater.answer("tie" if first == second else "1" if first > second else "2")
        assert given.status == 200, given.text
    return times


@contextmanager
def served(database: Database, settings: ServerSettings | None = None) -> Iterator[int]:
    """The page's server in a thread, as long as the context lasts; its port."""
    settings = settings or ServerSettings(votes_per_minute=100_000)
    ports: list[int] = []
    stop = threading.Event()
    options = {"host": "127.0.0.1", "stopping": stop.is_set, "ready": ports.append}
    thread = threading.Thread(target=serve, args=(database, settings, KEY, 0), kwargs=options)
    thread.start()
    try:
        eventually(lambda: ports, 20, "the server is ready")
        yield ports[0]
    finally:
        stop.set()
        thread.join(20)
    assert not thread.is_alive()
