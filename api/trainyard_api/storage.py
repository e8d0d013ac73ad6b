"""Where checkpoints and artifacts lie: folders of this machine and object stores, through one small set of verbs.

Both make the same promise, the only one that the layout of a checkpoint needs: what `write` has put is whole, durable and
visible to everyone when it returns, and never half there before. There is no rename, no lock and no append, for object
stores have none; whoever needs an order writes the thing that counts last.

Errors are OSErrors that name the URI, also an object store's (objects.py): FileNotFoundError, PermissionError, else what a
retry may mend.
"""

import os
import re
import shutil
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from .direct import write_all
from .objects import PARALLEL, PART_BYTES, Objects, all_of

_TEMPORARY = re.compile(r"\.(.+)\.[0-9a-f]{32}")
"""What a file is called until it is whole."""


class Storage(Protocol):
    """A place to keep things at. Paths are relative to it, with '/' between their parts."""

    @property
    def uri(self) -> str:
        """Of the place itself, without a '/' at its end."""

    def at(self, path: str) -> "Storage":
        """The place below it."""

    def names(self, path: str = "") -> list[str]:
        """What lies at `path`, things and folders, sorted; [] if nothing does. Names that begin with a dot are no one's."""

    def size(self, path: str) -> int:
        """Bytes of the thing."""

    def sizes(self, path: str = "") -> dict[str, int]:
        """Bytes of every thing below `path`, however deep, by the path from there; {} if there is none."""

    def read(self, path: str) -> bytes:
        """The whole of a small thing; use `read_into` for a large one."""

    def read_range(self, path: str, start: int, stop: int) -> bytes:
        """Bytes [start, stop) of it; OSError if it ends before."""

    def write(self, path: str, content: bytes | memoryview) -> None:
        """Put it there, in place of what was there, whole and durable on return."""

    def remove(self, path: str) -> None:
        """Delete the thing, or all that is below it; what isn't there is fine."""

    def tidy(self, over: Callable[[str], bool]) -> None:
        """Delete what writes have left that were cut off, of the things below for which `over(path)`: nobody sees it, but
        it takes room. A write of one of those that is under way all the same fails.
        """


def open_storage(uri: str) -> Storage:
    """The place that a URI names; ValueError if this installation can't open it."""
    if uri.startswith("file://"):
        return Files(Path(uri.removeprefix("file://")))
    return Objects(uri)


def read_into(storage: Storage, path: str, into: memoryview, start: int = 0) -> None:
    """Fill `into` with the bytes of the thing from `start` on, several parts at once."""

    def fill(first: int) -> None:
        last = min(first + PART_BYTES, len(into))
        into[first:last] = storage.read_range(path, start + first, start + last)

    with ThreadPoolExecutor(PARALLEL) as pool:
        list(pool.map(fill, range(0, len(into), PART_BYTES)))


class Files:
    """A folder. What is written goes to a file beside its place, is synced, and takes its name by one rename."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @property
    def uri(self) -> str:
        return f"file://{self.folder}"

    def at(self, path: str) -> "Files":
        return Files(self.folder / path)

    def names(self, path: str = "") -> list[str]:
        try:
            return sorted(name for name in os.listdir(self.folder / path) if not name.startswith("."))
        except FileNotFoundError:
            return []

    def size(self, path: str) -> int:
        return (self.folder / path).stat().st_size

    def sizes(self, path: str = "") -> dict[str, int]:
        top = self.folder / path
        files = (Path(folder, name) for folder, _, names in os.walk(top) for name in names)
        return dict(sorted((file.relative_to(top).as_posix(), file.stat().st_size) for file in files))

    def read(self, path: str) -> bytes:
        return (self.folder / path).read_bytes()

    def read_range(self, path: str, start: int, stop: int) -> bytes:
        file = self.folder / path
        with open(file, "rb", buffering=0) as opened:
            opened.seek(start)
            content = b"".join(iter(lambda: opened.read(stop - opened.tell()), b""))
        return all_of(content, start, stop, str(file))

    def write(self, path: str, content: bytes | memoryview) -> None:
        file = self.folder / path
        _make(file.parent)
        temporary = file.with_name(f".{file.name}.{uuid.uuid4().hex}")
        try:
            with open(temporary, "xb", buffering=0) as opened:
                write_all(opened.fileno(), memoryview(content))
                os.fsync(opened.fileno())
            os.replace(temporary, file)
        except BaseException:
            with suppress(OSError):
                temporary.unlink()
            raise
        sync_folder(file.parent)

    def remove(self, path: str) -> None:
        place = self.folder / path
        with suppress(FileNotFoundError):
            shutil.rmtree(place) if place.is_dir() else place.unlink()

    def tidy(self, over: Callable[[str], bool]) -> None:
        for folder, _, names in os.walk(self.folder):
            for temporary in filter(None, map(_TEMPORARY.fullmatch, names)):
                if over(Path(folder, temporary[1]).relative_to(self.folder).as_posix()):
                    Path(folder, temporary[0]).unlink(missing_ok=True)


def _make(folder: Path) -> None:
    """Make the folder and those above it, each a name that lasts."""
    if not folder.is_dir():
        _make(folder.parent)
        folder.mkdir(exist_ok=True)
        sync_folder(folder.parent)


def sync_folder(folder: Path) -> None:
    """Make the names in it last."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
