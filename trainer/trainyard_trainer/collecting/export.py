"""What reward and dpo read of the votes: one row a pair of responses, by the majority of those who judged it.

    preferences.jsonl      {"prompt", "chosen", "rejected"}: texts; the turns of a conversation as hh-rlhf writes them
    conversational.jsonl   the same with lists of {"role", "content"}
    hh-rlhf.jsonl          {"chosen", "rejected"}: whole transcripts
    votes.jsonl            every vote ever made: ties, both bad, skips, undone and repeated ones
    items.jsonl            what was compared
    agreement.json         how far annotators agree, with intervals; each one's figures and flags; scores of the models

A blind repeat tells of the annotator and not of the responses, so it has no say in rows. `for` and `against` say how many
judged so; a pair without a majority has no row, and is counted.
"""

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

from sqlalchemy import select

from .agreement import report
from .database import Database
from .items import Item, Message, write_items
from .tables import annotators, items, tasks, votes

_SPEAKERS = {"user": "\n\nHuman: ", "assistant": "\n\nAssistant: ", "system": "\n\nSystem: "}
_BATCH = 1000


@dataclass(frozen=True)
class Exported:
    """How many rows were written, how many pairs have none, by reason, and the files' names."""

    rows: int
    left_out: dict[str, int]
    files: tuple[str, ...]


def export(database: Database, folder: Path) -> Exported:
    """Write all of the above into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    rows, left_out = preferred(database)
    forms = {"preferences.jsonl": _texts, "conversational.jsonl": _conversational, "hh-rlhf.jsonl": _transcripts}
    for name, form in forms.items():
        _write(folder / name, (form(row) for row in rows))
    _write(folder / "votes.jsonl", raw_votes(database))
    write_items(folder / "items.jsonl", read_back(database))
    (folder / "agreement.json").write_text(json.dumps(report(database), indent=1, allow_nan=False), encoding="utf-8")
    return Exported(len(rows), left_out, (*forms, "votes.jsonl", "items.jsonl", "agreement.json"))


@dataclass(frozen=True)
class Preferred:
    """A pair of an item's responses of which more people preferred the one at `chosen` than the one at `rejected`."""

    item: Item
    chosen: int
    rejected: int
    votes_for: int
    votes_against: int


def preferred(database: Database) -> tuple[list[Preferred], dict[str, int]]:
    """The rows, in the order of items, and pairs without one, by reason."""
    ranks: dict[str, list[list[int]]] = {}
    query = select(votes.c.item, votes.c.ranks).join(tasks, votes.c.task == tasks.c.id)
    counts = votes.c.undone.is_(None) & (votes.c.verdict != "skip") & tasks.c.slot.is_not(None)
    with database.reading() as connection:
        for row in connection.execute(query.where(counts).order_by(votes.c.id)):
            ranks.setdefault(row.item, []).append(row.ranks)
    found, left_out = [], Counter[str]()
    for item in read_back(database):
        given = ranks.get(item.id, [])
        for a, b in combinations(range(len(item.responses)), 2):
            first, second = sum(r[a] < r[b] for r in given), sum(r[b] < r[a] for r in given)
            if first == second:
                left_out["not judged" if not given else "tie" if not first else "no majority"] += 1
            elif first > second:
                found.append(Preferred(item, a, b, first, second))
            else:
                found.append(Preferred(item, b, a, second, first))
    return found, dict(left_out)


def read_back(database: Database) -> Iterator[Item]:
    """All items, in their order."""
    with database.reading() as connection:
        query = connection.execution_options(yield_per=_BATCH).execute(select(items.c.content).order_by(items.c.number))
        for content in query.scalars():
            yield Item.model_validate(content)


def raw_votes(database: Database) -> Iterator[dict[str, Any]]:
    """The whole log, oldest first. `ranks` is by the item's responses, 0 the best; `shown` is the order on the page."""
    query = (
        select(votes, tasks.c.repeats, annotators.c.rule)
        .join(tasks, votes.c.task == tasks.c.id)
        .join(annotators, votes.c.annotator == annotators.c.name)
        .order_by(votes.c.id)
    )
    with database.reading() as connection:
        for row in connection.execution_options(yield_per=_BATCH).execute(query):
            told = row._asdict()
            told["repeat"] = told.pop("repeats") is not None
            yield told


def transcript(turns: Iterable[Message]) -> str:
    """Turns as hh-rlhf writes them: `\\n\\nHuman: …\\n\\nAssistant: …`."""
    return "".join(f"{_SPEAKERS[turn.role]}{turn.content}" for turn in turns)


def _texts(row: Preferred) -> dict[str, Any]:
    turns = row.item.turns
    alone = len(turns) == 1 and turns[0].role == "user"
    prompt = turns[0].content if alone else transcript(turns) + _SPEAKERS["assistant"]
    chosen, rejected = _both(row)
    return {"prompt": prompt, "chosen": chosen, "rejected": rejected, **_about(row)}


def _conversational(row: Preferred) -> dict[str, Any]:
    chosen, rejected = ([{"role": "assistant", "content": text}] for text in _both(row))
    prompt = [turn.model_dump() for turn in row.item.turns]
    return {"prompt": prompt, "chosen": chosen, "rejected": rejected, **_about(row)}


def _transcripts(row: Preferred) -> dict[str, Any]:
    chosen, rejected = (transcript([*row.item.turns, Message(role="assistant", content=text)]) for text in _both(row))
    return {"chosen": chosen, "rejected": rejected}


def _both(row: Preferred) -> tuple[str, str]:
    return row.item.responses[row.chosen].text, row.item.responses[row.rejected].text


def _about(row: Preferred) -> dict[str, Any]:
    return {"id": row.item.id, "for": row.votes_for, "against": row.votes_against}


def _write(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    with open(path, "w", encoding="utf-8") as file:
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n")
