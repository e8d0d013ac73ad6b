"""Documents from where the user keeps them: text, Markdown and JSONL files, folders of them, and a built-in text.

A text or Markdown file is one document, as it is; a JSONL row is one document. A folder is read in the order of its
sorted paths, so the same files give the same documents in the same order on every machine; links to files are
followed, links to folders are not (they can form loops). Bytes that are no UTF-8 become U+FFFD: one bad byte in a
million files must not end a run, but whoever reads the counts must see it.

What can't be read ends the stage with a `PermanentError` that names the source's field: it would be missing next time
too. One document at a time is held in memory.
"""

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainyard_api.stages import CHAT_FORMATS, Source

from ..errors import PermanentError

_FORMATS = {".jsonl": "jsonl", ".md": "markdown", ".markdown": "markdown"}
_BYTE_ORDER_MARK = "\ufeff"


@dataclass(frozen=True)
class Document:
    """A text, and whether bytes of it had to be replaced to make it one."""

    text: str
    repaired: bool
    file: str
    target: str | None = None
    """What is to be said about it."""
    unusable: str | None = None
    """Why it is left out."""


def read_sources(sources: list[Source], root: Path) -> Iterator[Document]:
    """All documents of all sources, in their order. Relative paths start at `root`."""
    for number, source in enumerate(sources):
        field = f"prepare.sources[{number}]"
        if source.builtin:
            yield from _python_docs()
            continue
        for file in _files(root / (source.path or ""), field, root):
            try:
                yield from _read_file(file, source, field)
            except PermissionError as error:
                raise PermanentError(
                    f"{field}.path: {_shown(file)} can't be read ({error.strerror}); make it readable for the "
                    "trainer's user, or leave it out of the folder"
                ) from error


def _python_docs() -> Iterator[Document]:
    """The topics of `help()`: the language reference, as the Python that runs this has it."""
    from pydoc_data.topics import topics

    for topic in sorted(topics):
        yield Document(topics[topic], repaired=False, file="python-docs")


def _files(path: Path, field: str, root: Path) -> Iterator[Path]:
    """The file itself, or all files below the folder, sorted."""
    if not path.exists():
        raise PermanentError(
            f"{field}.path: {_shown(path)} does not exist; put the data there or correct the path "
            f"(relative paths start at the storage root, {root})"
        )
    if not path.is_dir():
        yield _regular(path, field)
        return

    def unreadable(error: OSError) -> None:
        raise PermanentError(
            f"{field}.path: folder {_shown(error.filename)} can't be read ({error.strerror}); make it readable for the "
            "trainer's user, or name a folder without it"
        ) from error

    for folder, subfolders, names in os.walk(path, onerror=unreadable):
        subfolders.sort(key=os.fsencode)
        for name in sorted(names, key=os.fsencode):
            yield _regular(Path(folder, name), field)


def _regular(path: Path, field: str) -> Path:
    """The path, if reading it comes to an end: not a pipe, a device or a link to nowhere."""
    if not path.is_file():
        raise PermanentError(f"{field}.path: {_shown(path)} is no regular file (a broken link, a pipe?); remove it")
    return path


def _read_file(path: Path, source: Source, field: str) -> Iterator[Document]:
    format = _FORMATS.get(path.suffix.lower(), "text") if source.format == "auto" else source.format
    if format == "jsonl":
        yield from _read_rows(path, source, field)
    elif format in CHAT_FORMATS:
        yield from _read_conversations(path, format, field)
    elif source.target_field is not None:
        raise PermanentError(
            f"{field}.targetField: {_shown(path)} is no JSONL, so it has no keys; name files that are, or leave targetField out"
        )
    else:
        text, repaired = _decode(path.read_bytes())
        yield Document(text.removeprefix(_BYTE_ORDER_MARK), repaired, _shown(path))


def _read_rows(path: Path, source: Source, field: str) -> Iterator[Document]:
    """A document a row. A file without rows is one empty document."""
    empty = True
    for where, value, repaired in _rows(path, field):
        empty = False
        whole, torn = _text(value, source.text_field, where, f"{field}.textField")
        target, torn_too = None, False
        if source.target_field is not None:
            target, torn_too = _text(value, source.target_field, where, f"{field}.targetField")
        yield Document(whole, repaired or torn or torn_too, _shown(path), target)
    if empty:
        yield Document("", repaired=False, file=_shown(path))


def _read_conversations(path: Path, format: str, field: str) -> Iterator[Document]:
    """A conversation a row, as the JSON of its messages; or what is preferred."""
    # They import transformers, which other text does not need.
    from .conversations import UnusableError, conversation, preference, rating

    read, forms = {
        "conversations": (conversation, "`messages`, or `prompt` and `completion`, or `instruction` and `output`"),
        "preferences": (
            preference,
            "`prompt`, `chosen` and `rejected`, or `chosen` and `rejected` as whole conversations",
        ),
        "unpaired": (rating, "`prompt`, `completion` and `label`, or `messages` and `label`"),
    }[format]

    for where, row, repaired in _rows(path, field):
        try:
            text, torn = _decode(
                json.dumps(read(row if isinstance(row, dict) else {}), ensure_ascii=False).encode(
                    "utf-8", "surrogatepass"
                )
            )
            yield Document(text, repaired or torn, _shown(path))
        except UnusableError as error:
            yield Document("", repaired, _shown(path), unusable=str(error))
        except (KeyError, AttributeError, TypeError):
            raise PermanentError(
                f"{where}: none of {format}{_keys(row)}; give {forms}, or set {field}.format"
            ) from None


def _rows(path: Path, field: str) -> Iterator[tuple[str, Any, bool]]:
    """(where it stands, the row, whether bytes of it were replaced) of each row of JSONL; blank lines are no rows."""
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            row, repaired = _decode(line)
            row = row.removeprefix(_BYTE_ORDER_MARK).strip()
            if not row:
                continue
            where = f"{_shown(path)}:{number}"
            try:
                yield where, json.loads(row), repaired
            except (ValueError, RecursionError) as error:
                raise PermanentError(
                    f"{where}: not a row of JSON ({error}); mend the row, or set {field}.format if the file is no JSONL"
                ) from error


def _text(row: object, key: str, where: str, field: str) -> tuple[str, bool]:
    """What the row has under the key, as `_decode` gives it."""
    text = row.get(key) if isinstance(row, dict) else None
    if not isinstance(text, str):
        raise PermanentError(
            f"{where}: no text under the key {key!r}{_keys(row)}; mend the row, or name the key that holds the text in {field}"
        )
    return _decode(text.encode("utf-8", "surrogatepass"))


def _decode(raw: bytes) -> tuple[str, bool]:
    """The text, and whether any of it was no UTF-8 (lone surrogates, which JSON can write, are none either)."""
    try:
        return raw.decode(), False
    except UnicodeDecodeError:
        return raw.decode(errors="replace"), True


def _keys(value: object) -> str:
    """What the row has instead, for the error."""
    return f" (the row has {', '.join(map(repr, list(value)[:8]))})" if isinstance(value, dict) and value else ""


def _shown(path: Path | str) -> str:
    """The path as text that any report can carry, even if its name is no UTF-8."""
    return os.fsencode(path).decode(errors="replace")
