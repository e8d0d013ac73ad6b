"""The page in a real browser: keys, touch, no script, screen readers, hostile text, and a server that dies under it.

With TRAINYARD_SCREENSHOTS=FOLDER the looks of every state are saved there, for people to look at.
"""

import os
import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from chromium import SLOW_MS, chromium
from collecting import Annotator, link, served, some_items
from playwright.sync_api import Browser, Page, expect
from serving import Serving
from sqlalchemy import select
from trainyard_trainer.collecting.database import Database, open_database
from trainyard_trainer.collecting.items import Item, Message, Response
from trainyard_trainer.collecting.settings import ServerSettings
from trainyard_trainer.collecting.tables import votes

SETTINGS = ServerSettings(
    title="Chat, round 3",
    guidelines="Choose the response that helps the asker more.\n\n- Correct before complete.\n- If you can’t tell, say tie.",
    votes_per_minute=100_000,
)
SIZES: dict[str, dict[str, Any]] = {
    "desktop": {"viewport": {"width": 1280, "height": 800}},
    "phone": {
        "viewport": {"width": 390, "height": 844},
        "has_touch": True,
        "is_mobile": True,
        "device_scale_factor": 2,
    },
}
HOSTILE = "</p></main><script>alert(1)</script><img src=x onerror=alert(2)><svg onload=alert(3)>" + "W" * 500 + "\u202e"
LIST_OR_TUPLE = Item(
    id="list",
    prompt=(
        Message(role="system", content="You explain Python to people who know it a little."),
        Message(role="user", content="What is the difference between a list and a tuple?"),
    ),
    responses=(
        Response(
            text="A list can be changed after it is made: you can append, remove and replace elements. A tuple can’t.\n\n"
            "Choose a list for many things of one kind, and a tuple for a few that belong together, such as coordinates.",
            model="a",
        ),
        Response(
            text="Tuples are faster. Always use tuples.\n\n    point = (3, 4)\n    point[0] = 5   # works fine",
            model="b",
        ),
    ),
)

Opening = Callable[..., AbstractContextManager[Page]]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as opened:
        yield opened


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    opened = open_database(str(tmp_path / "votes.db"))
    yield opened
    opened.close()


@pytest.fixture
def opened(browser: Browser) -> Opening:
    """Opens a page by an annotator's link; every complaint of the browser's fails the test, but for those of `excused`."""

    @contextmanager
    def open_page(port: int, name: str = "Ada Lovelace", excused: str = "none is", **options: Any) -> Iterator[Page]:
        context = browser.new_context(**(SIZES["desktop"] | options))
        context.set_default_timeout(SLOW_MS)
        complaints: list[str] = []
        page = context.new_page()
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("dialog", lambda dialog: (complaints.append(f"dialog: {dialog.message}"), dialog.dismiss()))
        page.on("console", lambda said: complaints.append(said.text) if "Content Security" in said.text else None)
        page.goto(f"http://127.0.0.1:{port}/enter/{link(name)}")
        yield page
        context.close()
        assert not [each for each in complaints if excused not in each]

    return open_page


def verdicts(database: Database) -> list[tuple[str, list[int], str]]:
    """Verdict, ranks by place on the page, and note, of votes that count."""
    with database.reading() as connection:
        rows = connection.execute(select(votes).where(votes.c.undone.is_(None)).order_by(votes.c.id)).all()
    return [(row.verdict, [row.ranks[position] for position in row.shown], row.note) for row in rows]


def press(page: Page, key: str, says: str = "Saved.") -> None:
    """Press a key, and wait until the page says what came of it."""
    page.wait_for_timeout(260)  # presses that follow at once are not meant for what has just appeared
    page.evaluate("document.querySelector('#said').textContent = ''")
    page.keyboard.press(key)
    expect(page.locator("#said")).to_have_text(says, timeout=SLOW_MS)


def test_every_key(database: Database, opened: Opening) -> None:
    database.load(some_items(12))
    with served(database, SETTINGS) as port, opened(port) as page:
        for key in ("1", "2", "ArrowLeft", "ArrowRight", "t", "B"):
            press(page, key)
        press(page, "s", "Skipped.")
        press(page, "u", "Taken back.")
        page.keyboard.press("n")
        page.keyboard.type("t1: both are right")
        page.keyboard.press("Escape")
        press(page, "1")
        press(page, "u", "Taken back.")
        press(page, "t")
        page.keyboard.press("g")
        expect(page.get_by_text("Correct before complete.")).to_be_visible()
        expect(page.locator(".mine")).to_have_text("7 by you")
    first, second = ("prefer", [0, 1], ""), ("prefer", [1, 0], "")
    assert verdicts(database) == [
        first,
        second,
        first,
        second,
        ("tie", [0, 0], ""),
        ("both_bad", [0, 0], ""),
        ("tie", [0, 0], ""),
    ]
    with database.reading() as connection:
        assert "t1: both are right" in connection.scalars(select(votes.c.note)).all()


def test_keys_can_be_switched_off(database: Database, opened: Opening) -> None:
    database.load(some_items(2))
    with served(database, SETTINGS) as port, opened(port) as page:
        page.get_by_role("button", name="Keyboard shortcuts").click()
        page.reload()
        expect(page.get_by_role("button", name="Keyboard shortcuts: off")).to_be_visible()
        page.wait_for_timeout(300)
        page.keyboard.press("1")
        page.get_by_role("button", name="Tie").click()
        expect(page.locator("#said")).to_have_text("Saved.")
    assert [verdict for verdict, _, _ in verdicts(database)] == ["tie"]


def test_ranking_three(database: Database, opened: Opening) -> None:
    database.load(some_items(2, responses=3))
    with served(database, SETTINGS) as port, opened(port) as page:
        page.wait_for_timeout(260)
        for key in ("2", "1", "Backspace", "3"):
            page.keyboard.press(key)
        expect(page.get_by_role("button", name="Rank 2", exact=False)).to_be_visible()
        press(page, "Enter")
        for name in ("Rank response 1", "Rank response 2"):
            page.get_by_role("button", name=name).click()
        page.get_by_role("button", name="Save ranking").click()
        expect(page.get_by_role("heading", level=1)).to_have_text("All done. Thank you!")
    assert [ranks for _, ranks, _ in verdicts(database)] == [[2, 0, 1], [0, 1, 2]]


def test_without_a_mouse_and_for_screen_readers(database: Database, opened: Opening) -> None:
    """Tab reaches every control in reading order, each has a name, and after a vote one stands at the new question."""
    database.load(some_items(3))
    with served(database, SETTINGS) as port, opened(port) as page:
        names = []
        for _ in range(9):
            page.keyboard.press("Tab")
            names.append(page.evaluate("document.activeElement.innerText.replace(/\\s+/g, ' ').trim()"))
        choices = [
            "Guidelines G",
            "Response 1 is better 1 ←",
            "Response 2 is better 2 →",
            "Tie T",
            "Both bad B",
            "Skip S",
        ]
        assert names[:7] == [*choices, "Add a note N"]
        assert "Keyboard shortcuts: on" in names
        assert page.get_by_role("region", name="Prompt").count() == 1
        assert page.get_by_role("article", name="Response 2").count() == 1
        page.get_by_role("button", name="Response 1 is better").focus()
        page.keyboard.press("Enter")
        expect(page.get_by_role("status")).to_have_text("Saved.")
        assert page.evaluate("document.activeElement.tagName") == "H1"
        assert page.get_by_role("progressbar", name=re.compile("1 of 3 done")).count() == 1


def test_a_phone(database: Database, opened: Opening) -> None:
    database.load([LIST_OR_TUPLE, Item(id="x", prompt=HOSTILE, responses=(Response(text=HOSTILE), Response(text="b")))])
    with served(database, SETTINGS) as port, opened(port, **SIZES["phone"]) as page:
        for name in ("Tie", "Both bad", "Skip"):
            button = page.get_by_role("button", name=name)
            box = button.bounding_box()
            assert box
            assert box["height"] >= 44
            assert box["y"] + box["height"] <= 844
        page.get_by_role("button", name="Response 2 is better").tap()
        expect(page.locator("#said")).to_have_text("Saved.")
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
    assert verdicts(database) == [("prefer", [1, 0], "")]


def test_without_the_script(database: Database, opened: Opening) -> None:
    database.load(some_items(3))
    with served(database, SETTINGS) as port, opened(port, java_script_enabled=False) as page:
        page.get_by_role("button", name="Response 1 is better").click()
        expect(page.locator(".all")).to_have_text("1 of 3 done")
        page.get_by_role("button", name="Undo").click()
        expect(page.locator(".all")).to_have_text("0 of 3 done")
        for done in ("1", "2"):
            page.get_by_role("button", name="Both bad").click()
            expect(page.locator(".all")).to_have_text(f"{done} of 3 done")
        page.get_by_role("button", name="Tie").click()
        expect(page.get_by_role("heading", level=1)).to_have_text("All done. Thank you!")


def test_without_the_script_the_best_of_three_is_an_answer(database: Database, opened: Opening) -> None:
    database.load(some_items(1, responses=3))
    with served(database, SETTINGS) as port, opened(port, java_script_enabled=False) as page:
        expect(page.get_by_role("button", name="Save ranking")).to_be_hidden()
        page.get_by_role("button", name="Rank response 2").click()
        expect(page.get_by_role("heading", level=1)).to_have_text("All done. Thank you!")
    assert [ranks for _, ranks, _ in verdicts(database)] == [[1, 0, 1]]


def test_hostile_text_does_nothing(database: Database, opened: Opening) -> None:
    hostile = Item(id="x", prompt=HOSTILE, responses=(Response(text=HOSTILE), Response(text="b" + HOSTILE)))
    database.load([LIST_OR_TUPLE, hostile, LIST_OR_TUPLE.model_copy(update={"id": "again"})])
    with served(database, SETTINGS) as port, opened(port, name="<script>alert(4)</script>") as page:
        press(page, "t")  # then it comes by the script
        expect(page.locator(".prompt .text")).to_have_text(HOSTILE)
        page.reload()  # and then by the server
        assert page.locator("main script, main img, main svg").count() == 0
        assert page.evaluate("document.documentElement.scrollWidth") <= 1280
        look(page, "hostile")
        press(page, "t")


def test_a_vote_outlives_the_server(tmp_path: Path, opened: Opening) -> None:
    """The server is gone when a key is pressed: the page says so, goes on trying, and the vote counts once."""
    serving = Serving(str(tmp_path / "votes.db"), 3, 1, tmp_path / "server.txt")
    with serving, opened(serving.port) as page:
        serving.kill()
        press(page, "1", "Your answer is not saved yet. Trying again…")
        look(page, "trying-again")
        serving.start()
        expect(page.locator("#said")).to_have_text("Saved.", timeout=SLOW_MS)
        expect(page.locator(".all")).to_have_text("1 of 3 done")


def test_who_waits_sees_what_comes_free(database: Database, opened: Opening) -> None:
    database.load(some_items(1))
    with served(database, SETTINGS) as port, opened(port) as page:
        eve = Annotator(port, link("Eve"))
        database.load(some_items(2))
        eve.task()
        press(page, "t")
        expect(page.get_by_role("heading", level=1)).to_have_text("Nothing for you right now")
        eve.answer("skip")
        expect(page.get_by_role("heading", level=1)).to_have_text("Which response is better?", timeout=SLOW_MS)


@pytest.mark.parametrize(("size", "scheme"), [("desktop", "light"), ("phone", "dark")])
def test_nothing_that_axe_finds_in_any_state(database: Database, opened: Opening, size: str, scheme: str) -> None:
    """axe-core's rules, WCAG 2.2 AA and good practice among them, on each state of the page."""
    three = Item(
        id="three", prompt="And a set?", responses=(*LIST_OR_TUPLE.responses, Response(text="It has no order."))
    )
    database.load([LIST_OR_TUPLE, three])
    options = SIZES[size] | {"color_scheme": scheme, "reduced_motion": "reduce"}
    with served(database, SETTINGS) as port, opened(port, excused="inline style", **options) as page:  # axe's own
        state = f"{size}-{scheme}"
        check(page, f"{state}-pair")
        page.locator(".guidelines summary").click()
        page.locator(".note summary").click()
        check(page, f"{state}-all-open")
        page.get_by_role("button", name="Tie").click()
        expect(page.locator("#said")).to_have_text("Saved.")
        page.get_by_role("button", name="Rank response 2").click()
        check(page, f"{state}-ranking")
        page.get_by_role("button", name="All bad").click()
        expect(page.get_by_role("heading", level=1)).to_have_text("All done. Thank you!")
        check(page, f"{state}-done")
        page.goto(f"http://127.0.0.1:{port}/enter/forged")
        check(page, f"{state}-forged")


def check(page: Page, name: str) -> None:
    look(page, name)
    assert page.evaluate("document.styleSheets.length && document.styleSheets[0].cssRules.length") > 20
    found = Axe().run(page).response["violations"]
    assert not found, [(each["id"], each["help"], [node["html"] for node in each["nodes"]]) for each in found]


def look(page: Page, name: str) -> None:
    if folder := os.environ.get("TRAINYARD_SCREENSHOTS"):
        page.screenshot(path=Path(folder) / f"{name}.png")
