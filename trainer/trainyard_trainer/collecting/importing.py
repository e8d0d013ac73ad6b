"""Comparisons that were made elsewhere, taken in as votes of an annotator called after the file and marked as imported.

So agreement, scores and export treat them as they treat those that people made on the page. Rows may be prompt/chosen/rejected
texts, the same with lists of {"role", "content"} (with the prompt in both where there is none), or hh-rlhf's two transcripts.
"""

import hashlib
import json
import re
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError
from sqlalchemy import insert, select, update

from .database import Database, know
from .items import Item, Message, Response, judgeable
from .tables import tasks, votes

_TURN = re.compile(r"\n\n(Human|Assistant|System): ?")
_ROLES = {"Human": "user", "Assistant": "assistant", "System": "system"}
_TURNS = TypeAdapter(tuple[Message, ...])
SECONDS = 0.0
"""A vote of a file took no time that we know of."""


@dataclass(frozen=True)
class Imported:
    """Rows taken in, and those left out, by reason."""

    rows: int
    left_out: dict[str, int]


class _UnusableError(Exception):
    """str(e) is the reason under which a row is counted."""


def import_comparisons(database: Database, path: Path) -> Imported:
    """Take the comparisons of a file in. The same again changes nothing."""
    left_out: Counter[str] = Counter()
    found = []
    with open(path, encoding="utf-8") as lines:
        for line in filter(str.strip, lines):
            try:
                found.append(_item(json.loads(line)))
            except _UnusableError as error:
                left_out[str(error)] += 1
            except ValueError:
                left_out["not JSON"] += 1
    sound = judgeable(found)
    left_out.update(sound.left_out)
    database.load(sound.items)
    name = f"import {path.name}"[:100]
    ids = {item.id for item in sound.items}
    with database.writing() as connection:
        know(connection, name, "imported")
        open_tasks = select(tasks.c.id, tasks.c.item, tasks.c.showing).where(~tasks.c.done, tasks.c.slot == 0)
        fresh = [task for task in connection.execute(open_tasks) if task.item in ids]
        if fresh:
            common = {"annotator": name, "verdict": "prefer", "ranks": [0, 1], "shown": [0, 1], "seconds": SECONDS}
            common["at"] = time.time()
            rows = [{"task": task.id, "showing": task.showing + 1, "item": task.item, **common} for task in fresh]
            connection.execute(insert(votes), rows)
            for task in fresh:
                values = {"done": True, "annotator": name, "showing": task.showing + 1, "shown": [0, 1]}
                connection.execute(update(tasks).where(tasks.c.id == task.id).values(values))
    return Imported(len(sound.items), dict(left_out))


def _item(row: Any) -> Item:
    if not isinstance(row, dict) or "chosen" not in row or "rejected" not in row:
        raise _UnusableError("no chosen and rejected")
    prompt, chosen = _split(row.get("prompt"), row["chosen"])
    same, rejected = _split(row.get("prompt"), row["rejected"])
    if prompt != same:
        raise _UnusableError("chosen and rejected answer different prompts")
    content = json.dumps([[turn.model_dump() for turn in prompt], chosen, rejected], ensure_ascii=False)
    alone = len(prompt) == 1 and prompt[0].role == "user"
    return Item(
        id=hashlib.sha256(content.encode()).hexdigest()[:24],
        prompt=prompt[0].content if alone else prompt,
        responses=(Response(text=chosen), Response(text=rejected)),
    )


def _split(prompt: Any, answer: Any) -> tuple[tuple[Message, ...], str]:
    """The turns before the response, and the response."""
    before = _turns(prompt) if prompt is not None else ()
    if isinstance(answer, str) and prompt is not None:
        return before, answer
    turns = (*before, *_turns(answer))
    if not turns or turns[-1].role != "assistant":
        raise _UnusableError("no response at the end")
    return turns[:-1], turns[-1].content


def _turns(given: Any) -> tuple[Message, ...]:
    """Turns of a list of messages, or of a text, which may be a transcript."""
    if isinstance(given, str):
        return tuple(_spoken(given)) if given.startswith("\n\nHuman:") else (Message(role="user", content=given),)
    try:
        return _TURNS.validate_python(given)
    except ValidationError:
        raise _UnusableError("turns that are no list of role and content") from None


def _spoken(transcript: str) -> Iterator[Message]:
    pieces = _TURN.split(transcript)[1:]
    for speaker, content in zip(pieces[::2], pieces[1::2], strict=True):
        if content or speaker != "Assistant":  # a prompt may end with `\n\nAssistant:`
            yield Message.model_validate({"role": _ROLES[speaker], "content": content})
