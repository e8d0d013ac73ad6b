"""Where a stage works when its storage is an object store: a folder of the worker, TRAINYARD_SCRATCH.

A folder as storage is worked in as it is. Of an object store's inputs each worker has one copy, which all its ranks map;
what a stage makes is made in scratch and put to storage by `artifacts`, whose artifact.json decides there as anywhere. So
scratch may be lost at any moment.

    inputs/<bucket>/<path>/             files that artifact.json lists, itself last: it is there when all are
    outputs/<attempt>/<bucket>/<path>/  what this attempt makes
    sources/<bucket>/<path>/            text for prepare
"""

import fcntl
import hashlib
import mmap
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from trainyard_api.objects import PART_BYTES
from trainyard_api.storage import Storage, read_into

from .errors import PermanentError, RetryableError

_WINDOW_BYTES = 4 * PART_BYTES
"""Fetched between two looks whether the stage is asked to stop."""
_LOOK_SECONDS = 0.1
"""Between two looks whether another rank of this worker has fetched."""

Note = Callable[[str], None]
"""Hears how far it is, often; may raise to end it."""


def is_folder(uri: str) -> bool:
    """Whether the storage behind the URI is worked in as it is."""
    return uri.startswith("file://")


def folder_of(uri: str, part: str) -> Path:
    """The folder that stands for the URI on this worker; `part` is that of scratch, where it isn't the storage itself."""
    if is_folder(uri):
        return Path(uri.removeprefix("file://"))
    return scratch() / part / uri.partition("://")[2].rstrip("/")


def scratch() -> Path:
    """TRAINYARD_SCRATCH, else a folder of this user among the temporary ones."""
    given = os.environ.get("TRAINYARD_SCRATCH")
    return Path(given) if given else Path(tempfile.gettempdir(), f"trainyard-{os.geteuid()}")


def make_scratch(folder: Path) -> None:
    """Make a folder in scratch, which nobody else may look into."""
    scratch().mkdir(mode=0o700, parents=True, exist_ok=True)
    folder.mkdir(parents=True, exist_ok=True)


@dataclass(frozen=True)
class Known:
    """A file in storage, as it must be."""

    path: str
    bytes: int
    sha256: str | None = None
    """None where nobody knows it."""


def wanted_files(artifact: dict[str, Any], where: str) -> list[Known]:
    """What an artifact's files are, none of which may lead out of its folder."""
    files = [Known(path, known["bytes"], known["sha256"]) for path, known in artifact["files"].items()]
    for each in files:
        refuse_stray(each.path, where)
    return files


def refuse_stray(path: str, where: str) -> None:
    """PermanentError for a name that no file of a folder can have: a store takes any text for one."""
    parts = path.split("/")
    if any(part in ("", ".", "..") or "\0" in part for part in parts):
        raise PermanentError(f"{where}/{path}: can't be the name of a file here; rename it, or leave it out")


def fetch(source: Storage, files: list[Known], folder: Path, note: Note) -> None:
    """Bring the files into the folder, each whole and as it must be; what is there already stays."""
    total = sum(each.bytes for each in files)
    done = 0

    def count(more: int) -> None:
        nonlocal done
        done += more
        note(f"fetching {source.uri}: {done / 1e6:,.1f} of {total / 1e6:,.1f} MB")

    for each in files:
        place = folder / PurePosixPath(each.path)
        if not _is_there(place, each):
            _fetch_file(source, each, place, count)
        else:
            count(each.bytes)


@contextmanager
def one_at_a_time(folder: Path, waiting: Callable[[], None]) -> Iterator[None]:
    """Be the only process of this worker that fills the folder; `waiting` is called while another one is."""
    make_scratch(folder)
    with open(folder.with_name(f"{folder.name}.lock"), "wb") as lock:
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                waiting()
                time.sleep(_LOOK_SECONDS)
        yield


def _is_there(place: Path, known: Known) -> bool:
    """Whether an earlier try, which may have been after something else, has brought this very file."""
    if not known.sha256 or not place.is_file() or place.stat().st_size != known.bytes:
        return False
    with open(place, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() == known.sha256


def _fetch_file(source: Storage, known: Known, place: Path, count: Callable[[int], None]) -> None:
    """Several parts at once, into a file that gets its name when its digest is right."""
    partial = place.with_name(f"{place.name}.part")
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        with open(partial, "w+b") as file:
            if known.bytes:
                os.posix_fallocate(file.fileno(), 0, known.bytes)  # a full disk is an error here, and a crash below
                with mmap.mmap(file.fileno(), known.bytes) as memory, memoryview(memory) as view:
                    for start in range(0, known.bytes, _WINDOW_BYTES):
                        with view[start : start + _WINDOW_BYTES] as window:
                            read_into(source, known.path, window, start)
                            count(len(window))
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        if str(error.filename or partial) == str(partial):
            raise RetryableError(
                f"{partial}: {error.strerror}; {known.bytes:,} bytes must go there: point TRAINYARD_SCRATCH to more room"
            ) from error
        raise
    if known.sha256 and digest != known.sha256:
        partial.unlink()
        raise PermanentError(
            f"{source.uri}/{known.path}: has other content than artifact.json says (SHA-256 differs); delete the folder "
            "and run its stage again"
        )
    partial.rename(place)
