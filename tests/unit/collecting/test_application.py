"""What the server answers to annotators, to strangers and to those who mean harm. The server is real, and so is HTTP."""

import html
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from collecting import KEY, Annotator, link, served, some_items
from trainyard_api.links import form_token, manager_token, sign
from trainyard_trainer.collecting.database import Database, Tally, open_database
from trainyard_trainer.collecting.items import Item, Response
from trainyard_trainer.collecting.settings import ServerSettings

HOSTILE = "</p></main><script>alert(1)</script><img src=x onerror=alert(2)>{{ 7*7 }}\u202e'\"&"
INJECTION = "'; DROP TABLE votes; --"
SETTINGS = ServerSettings(guidelines="Read both.\n\n- one\n- two", votes_per_minute=100_000, oidc_header="X-Email")


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Database]:
    opened = open_database(str(tmp_path_factory.mktemp("votes") / "votes.db"))
    hostile = Item(
        id="hostile", prompt=HOSTILE, responses=(Response(text=HOSTILE, model="secret-model"), Response(text="b"))
    )
    opened.load([hostile, *some_items(100)], overlap=9)
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def port(database: Database) -> Iterator[int]:
    with served(database, SETTINGS) as number:
        yield number


@pytest.fixture
def ada(port: int) -> Annotator:
    return Annotator(port, link("Ada"))


def as_html(annotator: Annotator, path: str = "/") -> str:
    return annotator.ask("GET", path, Accept="text/html").text


def test_a_link_sets_a_cookie_and_is_left_at_once(port: int) -> None:
    answer = Annotator(port, "").ask("GET", f"/enter/{link('Ada')}", Cookie="")
    assert (answer.status, answer.headers["Location"]) == (303, "../")
    cookie = answer.headers["Set-Cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=lax" in cookie


def test_hostile_text_is_shown_as_text(ada: Annotator) -> None:
    page = as_html(ada)
    assert html.escape(HOSTILE, quote=False).replace("'\"", "&#39;&#34;") in page
    assert page.count("<script") == 1  # ours
    assert "<img" not in page


def test_nothing_says_which_model_wrote_what(ada: Annotator) -> None:
    assert "model" not in as_html(ada).replace("which model wrote what", "")
    assert "secret-model" not in ada.ask("GET", "/task").text


def test_every_answer_has_the_headers_that_keep_others_out(ada: Annotator, port: int) -> None:
    for path in ("/", "/static/page.js", "/nowhere", "/enter/nonsense"):
        headers = ada.ask("GET", path).headers
        assert "default-src 'none'" in headers["Content-Security-Policy"]
        assert "unsafe" not in headers["Content-Security-Policy"]
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["X-Frame-Options"] == "DENY"
    assert ada.ask("GET", "/").headers["Cache-Control"] == "no-store"


def test_the_page_has_nothing_inline(ada: Annotator) -> None:
    page = as_html(ada)
    assert not re.search(r"<[^>]+ (style|on[a-z]+)=|<style|javascript:", page)


STRANGERS = {
    "no link": ("", 401),
    "a forged link": (sign(b"another key", "Ada", time.time() + 60), 403),
    "an expired link": (sign(KEY, "Ada", time.time() - 1), 403),
    "nonsense": ("x" * 3000, 403),
}


@pytest.mark.parametrize("name", STRANGERS)
def test_strangers_are_told_why_and_see_nothing(port: int, name: str) -> None:
    token, status = STRANGERS[name]
    answer = Annotator(port, token).ask("GET", "/", Accept="text/html")
    assert answer.status == status
    assert "Question" not in answer.text
    assert "link" in answer.text


def test_a_revoked_link_ends_and_a_later_one_works(port: int) -> None:
    manager = {"Authorization": f"Bearer {manager_token(KEY)}"}
    eve = Annotator(port, link("Eve"))
    assert eve.ask("GET", "/").status == 200
    assert Annotator(port, "").ask("POST", "/manage/revoke", {"annotator": "Eve"}, **manager).status == 200
    assert eve.ask("GET", "/").status == 403
    assert Annotator(port, link("Eve", issued=time.time() + 1)).ask("GET", "/").status == 200


BAD_FORMS: dict[str, tuple[dict[str, Any], int]] = {
    "no token of the form": ({"form": ""}, 400),
    "another annotator's token": ({"form": form_token(KEY, "Eve")}, 400),
    "SQL for a task": ({"task": INJECTION}, 400),
    "a task beyond all numbers": ({"task": 10**30}, 400),
    "a negative task": ({"task": -1}, 400),
    "an answer that is none": ({"answer": INJECTION}, 400),
    "a response that isn't there": ({"answer": "9"}, 409),
    "another's task": ({"task": 909}, 409),
    "a ranking of the same twice": ({"answer": "ranking", "picks": "1,1"}, 409),
    "too long": ({"note": "x" * 100_000}, 400),
}


@pytest.mark.parametrize("name", BAD_FORMS)
def test_bad_forms_are_refused_and_count_nothing(ada: Annotator, database: Database, name: str) -> None:
    change, status = BAD_FORMS[name]
    before = database.progress()
    answer = ada.answer(**({"answer": "1"} | change))
    assert answer.status == status, answer.text
    assert answer.json()["error"]
    assert database.progress() == before


def test_a_form_from_another_site_is_refused(ada: Annotator) -> None:
    seen = ada.task()
    form = {"form": seen["form"], "task": seen["task"]["task"], "showing": seen["task"]["showing"], "answer": "1"}
    assert ada.ask("POST", "/vote", form, **{"Sec-Fetch-Site": "cross-site"}).status == 400
    assert ada.ask("POST", "/vote", b"\xff\xfe=%zz&&&;").status == 400


def test_injections_are_text_like_any_other(port: int, database: Database) -> None:
    bobby = Annotator(port, link(INJECTION))
    before = database.progress().done
    assert bobby.answer("tie", note=INJECTION + "\0" + HOSTILE).status == 200
    assert database.progress().done == before + 1
    assert html.escape(INJECTION).replace("&#x27;", "&#39;") in as_html(bobby)


def test_voting_without_the_script_is_a_form_and_a_way_back(ada: Annotator, database: Database) -> None:
    before = database.progress().done
    answer = ada.answer("2")
    assert answer.status == 200
    seen = ada.task()
    form = {"form": seen["form"], "task": seen["task"]["task"], "showing": seen["task"]["showing"], "answer": "1"}
    answer = ada.ask("POST", "/vote", form, Accept="text/html")
    assert (answer.status, answer.headers["Location"]) == (303, "./")
    assert ada.ask("POST", "/undo", {"form": seen["form"]}, Accept="text/html").status == 303
    assert database.progress().done == before + 1


def test_an_annotator_named_by_a_proxy(port: int) -> None:
    answer = Annotator(port, "", {"X-Email": "grace@example.org"}).ask("GET", "/", Accept="text/html")
    assert "grace@example.org" in answer.text


def test_a_name_that_no_trusted_proxy_said_is_not_taken(tmp_path: Path) -> None:
    database = open_database(str(tmp_path / "votes.db"))
    database.load(some_items(1))
    settings = ServerSettings(oidc_header="X-Email", proxies=("10.0.0.0/8",))
    with served(database, settings) as port:
        assert Annotator(port, "", {"X-Email": "eve@example.org"}).ask("GET", "/").status == 401
        assert Annotator(port, link("Ada"), {"X-Other": "x"}).ask("GET", "/").status == 200


def test_who_votes_faster_than_anybody_reads_is_slowed_down(tmp_path: Path) -> None:
    database = open_database(str(tmp_path / "votes.db"))
    database.load(some_items(30))
    with served(database, ServerSettings(votes_per_minute=6)) as port:
        ada, bob = Annotator(port, link("Ada")), Annotator(port, link("Bob"))
        answers = [ada.answer("tie") for _ in range(4)]
        assert [answer.status for answer in answers] == [200, 200, 200, 429]
        assert int(answers[-1].headers["Retry-After"]) >= 5
        assert bob.answer("tie").status == 200
        guesses = [Annotator(port, f"v1.{n}.x").ask("GET", "/").status for n in range(20)]
        assert guesses.count(403) == 15
        assert guesses.count(429) == 5


def test_figures_and_votes_need_the_managers_token(ada: Annotator, port: int) -> None:
    for path in ("/manage/status", "/manage/votes"):
        assert ada.ask("GET", path).status == 401
        answer = ada.ask("GET", path, Authorization=f"Bearer {manager_token(KEY)}")
        assert answer.status == 200
    assert ada.ask("POST", "/manage/revoke", {"annotator": "Bob"}).status == 401


def test_nothing_else_is_served(ada: Annotator) -> None:
    for path in ("/docs", "/openapi.json", "/static/../pages.py", "/static/%2e%2e/links.py", "/static/none.js"):
        assert ada.ask("GET", path).status == 404


def test_the_server_says_when_all_is_done(tmp_path: Path) -> None:
    database = open_database(str(tmp_path / "votes.db"))
    database.load(some_items(2))
    with served(database) as port:
        ada = Annotator(port, link("Ada"))
        for _ in range(2):
            assert ada.answer("1").status == 200
        assert "All done" in as_html(ada)
        assert ada.task()["closed"]
    assert database.progress() == Tally(2, 2)
