"""The tokens of a tokenizer that are no text, by what they are for.

A tokenizer has what its folder says. What an objective needs and the tokenizer lacks (a mask, sentinels) is added behind its
vocabulary by the model, so that data prepared once serves every family; `export` writes a tokenizer that has them.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

MASK = "<|mask|>"


def sentinel(number: int) -> str:
    """T5's name of a sentinel."""
    return f"<extra_id_{number}>"


@dataclass(frozen=True)
class SpecialTokens:
    """Token numbers."""

    begin: int
    """Before a document: bos or cls, else the end of the document before."""
    end: int
    """After a document: eos or sep."""
    pad: int | None
    mask: int | None
    sentinels: tuple[int, ...]
    size: int
    """Entries of the vocabulary."""


def special_tokens(folder: Path) -> SpecialTokens:
    """Those of the tokenizer in a folder. KeyError if it has none to end a document with."""
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    names = token_names(folder)

    def number(*roles: str) -> int | None:
        found = (names[role] for role in roles if role in names)
        return next((token for name in found if (token := tokenizer.token_to_id(name)) is not None), None)

    end = number("eos_token", "sep_token")
    if end is None:
        raise KeyError("eos_token")
    begin = number("bos_token", "cls_token")
    return SpecialTokens(
        begin=end if begin is None else begin,
        end=end,
        pad=number("pad_token"),
        mask=number("mask_token"),
        sentinels=tuple(_sentinels(tokenizer)),
        size=tokenizer.get_vocab_size(),
    )


def token_names(folder: Path) -> dict[str, str]:
    """`eos_token` → how it is written, for all roles that the tokenizer in a folder names."""
    names: dict[str, Any] = {}
    for name in ("special_tokens_map.json", "tokenizer_config.json"):
        if (file := folder / name).exists():
            names |= {role: value for role, value in json.loads(file.read_bytes()).items() if value}
    given = ((role, each["content"] if isinstance(each, dict) else each) for role, each in names.items())
    return {role: each for role, each in given if role.endswith("_token") and isinstance(each, str)}


def add_tokens(folder: Path, names: list[str]) -> None:
    """Add special tokens to the tokenizer in a folder, behind its vocabulary and in this order."""
    if not names:
        return
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.add_special_tokens(names)
    tokenizer.save(str(folder / "tokenizer.json"))
    file = folder / "tokenizer_config.json"
    configuration = json.loads(file.read_bytes())
    configuration |= {"mask_token": MASK} if MASK in names else {"extra_special_tokens": names}
    file.write_text(json.dumps(configuration, indent=1))


def _sentinels(tokenizer: Tokenizer) -> Iterator[int]:
    for number in count():
        if (token := tokenizer.token_to_id(sentinel(number))) is None:
            return
        yield token
