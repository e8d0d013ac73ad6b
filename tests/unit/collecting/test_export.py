"""What is written for reward and dpo, and files of others that are read."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from collecting import LEASE, judge, some_items
from trainyard_trainer.collecting.database import Database, Tally, open_database
from trainyard_trainer.collecting.export import export
from trainyard_trainer.collecting.importing import import_comparisons
from trainyard_trainer.collecting.items import Item, Message, Response, read_items, write_items
from trainyard_trainer.collecting.voting import undo, view
from trainyard_trainer.errors import PermanentError

TALK = (
    Message(role="user", content="Hello"),
    Message(role="assistant", content="Good morning"),
    Message(role="user", content="And now?"),
)


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    opened = open_database(str(tmp_path / "votes.db"))
    yield opened
    opened.close()


def rows(folder: Path, name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / name).read_text(encoding="utf-8").splitlines()]


def test_one_row_a_pair_by_the_majority(database: Database, tmp_path: Path) -> None:
    database.load(some_items(3), overlap=3)
    for name, best in (("ada", 0), ("bob", 0), ("eve", 1)):
        # What they say of item 0, 1 and 2; each is shown them in an order of their own.
        said: dict[str, tuple[int, str]] = {"item-0": (best, "prefer"), "item-1": (0, "tie")}
        said["item-2"] = (best, "tie" if name == "ada" else "prefer")
        while shown := view(database, name, LEASE).shown:
            judge(database, name, *said[shown.item.id])
    done = export(database, tmp_path / "out")
    assert (done.rows, done.left_out) == (1, {"tie": 1, "no majority": 1})
    about = {"id": "item-0", "for": 2, "against": 1}
    assert rows(tmp_path / "out", "preferences.jsonl") == [
        {"prompt": "Question 0?", "chosen": "answer a to 0", "rejected": "answer b to 0", **about}
    ]
    assert rows(tmp_path / "out", "hh-rlhf.jsonl") == [
        {
            "chosen": "\n\nHuman: Question 0?\n\nAssistant: answer a to 0",
            "rejected": "\n\nHuman: Question 0?\n\nAssistant: answer b to 0",
        }
    ]
    assert {path.name for path in (tmp_path / "out").iterdir()} == set(done.files)


def test_the_raw_log_keeps_everything(database: Database, tmp_path: Path) -> None:
    database.load(some_items(4))
    judge(database, "ada", 1)
    undo(database, "ada", LEASE)
    for verdict in ("both_bad", "tie", "skip"):
        judge(database, "ada", verdict=verdict)
    export(database, tmp_path)
    log = rows(tmp_path, "votes.jsonl")
    assert [(row["verdict"], row["undone"] is None) for row in log] == [
        ("prefer", False),
        ("both_bad", True),
        ("tie", True),
        ("skip", True),
    ]
    assert log[0]["ranks"] == [1, 0]
    assert {"annotator", "rule", "shown", "seconds", "guidelines", "note", "at", "repeat"} <= set(log[0])
    assert [item.id for item in read_items(tmp_path / "items.jsonl")] == [f"item-{n}" for n in range(4)]


def test_a_conversation(database: Database, tmp_path: Path) -> None:
    database.load([Item(id="x", prompt=TALK, responses=(Response(text="no"), Response(text="yes")))])
    judge(database, "ada", 1)
    export(database, tmp_path)
    (row,) = rows(tmp_path, "conversational.jsonl")
    assert row["prompt"] == [turn.model_dump() for turn in TALK]
    assert row["chosen"] == [{"role": "assistant", "content": "yes"}]
    (row,) = rows(tmp_path, "preferences.jsonl")
    assert row["prompt"] == "\n\nHuman: Hello\n\nAssistant: Good morning\n\nHuman: And now?\n\nAssistant: "
    (row,) = rows(tmp_path, "hh-rlhf.jsonl")
    assert row["rejected"] == "\n\nHuman: Hello\n\nAssistant: Good morning\n\nHuman: And now?\n\nAssistant: no"


def test_a_ranking_is_a_row_for_each_pair(database: Database, tmp_path: Path) -> None:
    database.load(some_items(1, responses=3))
    judge(database, "ada", 1)  # the other two share the last rank
    assert export(database, tmp_path).rows == 2
    assert {row["rejected"] for row in rows(tmp_path, "preferences.jsonl")} == {"answer a to 0", "answer c to 0"}


@pytest.mark.parametrize("name", ["preferences.jsonl", "conversational.jsonl", "hh-rlhf.jsonl"])
def test_what_was_written_is_read_again_as_the_same(tmp_path: Path, name: str) -> None:
    first, second = open_database(str(tmp_path / "a.db")), open_database(str(tmp_path / "b.db"))
    first.load(
        [*some_items(3), Item(id="x", prompt=TALK, responses=(Response(text="no\n\nHuman says"), Response(text="yes")))]
    )
    for best in (0, 1, 0, 1):
        judge(first, "ada", best)
    export(first, tmp_path / "a")
    for _ in range(2):
        assert import_comparisons(second, tmp_path / "a" / name).rows == 4
    assert second.progress() == Tally(4, 4)
    export(second, tmp_path / "b")
    pairs = [[(row["chosen"], row["rejected"]) for row in rows(tmp_path / folder, "hh-rlhf.jsonl")] for folder in "ab"]
    assert pairs[0] == pairs[1]
    assert {row["rule"] for row in rows(tmp_path / "b", "votes.jsonl")} == {"imported"}
    first.close()
    second.close()


UNUSABLE = {
    "not JSON": "{",
    "no chosen and rejected": '{"prompt": "x", "chosen": "y"}',
    "equal responses": '{"prompt": "x", "chosen": "y", "rejected": "y"}',
    "empty response": '{"prompt": "x", "chosen": "y", "rejected": " "}',
    "no prompt": '{"prompt": "", "chosen": "y", "rejected": "z"}',
    "chosen and rejected answer different prompts": (
        '{"chosen": "\\n\\nHuman: a\\n\\nAssistant: b", "rejected": "\\n\\nHuman: c\\n\\nAssistant: d"}'
    ),
    "no response at the end": '{"chosen": "\\n\\nHuman: a", "rejected": "\\n\\nHuman: a"}',
    "turns that are no list of role and content": '{"prompt": "a", "chosen": [{"role": "king"}], "rejected": []}',
}


@pytest.mark.parametrize("reason", UNUSABLE)
def test_rows_that_cannot_be_used_are_counted(database: Database, tmp_path: Path, reason: str) -> None:
    (tmp_path / "given.jsonl").write_text(f'{UNUSABLE[reason]}\n{{"prompt": "q", "chosen": "a", "rejected": "b"}}\n')
    taken = import_comparisons(database, tmp_path / "given.jsonl")
    assert (taken.rows, taken.left_out) == (1, {reason: 1})


def test_items_of_a_file(tmp_path: Path) -> None:
    write_items(tmp_path / "items.jsonl", some_items(2))
    assert list(read_items(tmp_path / "items.jsonl")) == some_items(2)
    (tmp_path / "items.jsonl").write_text('\n{"id": "x", "prompt": "q", "responses": [{"text": "a"}]}\n')
    with pytest.raises(PermanentError, match=r"items\.jsonl:2: responses"):
        list(read_items(tmp_path / "items.jsonl"))
