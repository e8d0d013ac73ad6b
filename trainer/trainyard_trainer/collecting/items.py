"""What people compare: a prompt and two or more responses to it, as lines of items.jsonl.

An item says which model wrote what; nothing of that reaches the page. Items that nobody could judge are left out before
anyone sees them, and counted by reason.
"""

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ..errors import PermanentError

MAX_RESPONSES = 9
"""A key each, 1 to 9."""
MAX_CHARACTERS = 200_000
"""Of one text."""

Text = Annotated[str, Field(max_length=MAX_CHARACTERS)]


class _Row(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Message(_Row):
    """A turn of a conversation."""

    role: Literal["system", "user", "assistant"]
    content: Text


class Response(_Row):
    """What a model wrote, and how it was drawn."""

    text: Text
    model: str = ""
    temperature: float | None = None
    seed: int | None = None


class Item(_Row):
    """One comparison. `prompt` is a text or the turns before the response; `id` is the same whenever items are drawn again."""

    id: Annotated[str, Field(min_length=1, max_length=200)]
    prompt: Text | tuple[Message, ...]
    responses: Annotated[tuple[Response, ...], Field(min_length=2, max_length=MAX_RESPONSES)]

    @property
    def turns(self) -> tuple[Message, ...]:
        """The prompt as turns of a conversation."""
        return (Message(role="user", content=self.prompt),) if isinstance(self.prompt, str) else self.prompt


@dataclass(frozen=True)
class Judgeable:
    """Items that people can judge, and how many were left out, by reason."""

    items: tuple[Item, ...]
    left_out: dict[str, int]


def judgeable(items: Iterable[Item]) -> Judgeable:
    """Leave out what nobody can judge: no prompt, an empty response, two equal ones, an id that was there before."""
    kept: dict[str, Item] = {}
    left_out: Counter[str] = Counter()
    for item in items:
        texts = [each.text.strip() for each in item.responses]
        if not any(turn.content.strip() for turn in item.turns):
            left_out["no prompt"] += 1
        elif not all(texts):
            left_out["empty response"] += 1
        elif len(set(texts)) < len(texts):
            left_out["equal responses"] += 1
        elif item.id in kept:
            left_out["id used twice"] += 1
        else:
            kept[item.id] = item
    return Judgeable(tuple(kept.values()), dict(left_out))


def read_items(path: Path) -> Iterator[Item]:
    """The items of a file of JSON lines. PermanentError names the line that is none."""
    with open(path, encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            if line.strip():
                try:
                    yield Item.model_validate_json(line)
                except ValidationError as error:
                    first = error.errors()[0]
                    field = ".".join(str(part) for part in first["loc"]) or "row"
                    raise PermanentError(f"{path}:{number}: {field}: {first['msg']}; mend or remove the row") from None


def write_items(path: Path, items: Iterable[Item]) -> None:
    """Write items as JSON lines, in their order."""
    rows = (json.dumps(item.model_dump(exclude_none=True), ensure_ascii=False) for item in items)
    path.write_text("".join(f"{row}\n" for row in rows), encoding="utf-8")
