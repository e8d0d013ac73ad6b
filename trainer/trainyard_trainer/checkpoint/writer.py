"""The process that writes a rank's shards: `python -m trainyard_trainer.checkpoint.writer PARENT BYTES MEMORY…`.

A process, for hashing and writing on a thread would hold up the training loop at every turn of the GIL. It is small (it
imports no torch), started before training, maps its rank's memory, and dies with its rank. Commands come as JSON lines on
standard input, answers go as JSON lines to standard output:

    {"write": path, "instead_of": path, "slot": n, "copy_to": url}
                                          the slot into the file, hashed on the way and synced, after making room by
                                          removing the shard of a save that failed; then, on the side, to the next
                                          worker's agent → {"shard": …, "copied": whether the last copy was}
    {"commit": {…}}                       the arguments of `commit.commit`           → {"committed": monotonic time}

or {"failure": …}, the fields of a `Failure`.
"""

import ctypes
import dataclasses
import hashlib
import json
import mmap
import os
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from functools import cache, partial
from pathlib import Path
from typing import Any

from trainyard_api.checkpoint import MANIFEST, Shard

from .commit import FencedError, commit
from .copying import Copy
from .failure import Failure

_CHUNK_BYTES = 4 * 1024 * 1024
_PR_SET_PDEATHSIG = 1
_NICE = 5
"""Training goes first where cores are few."""


def main() -> None:
    """Do what the rank says, until it is gone."""
    parent, size, *memories = map(int, sys.argv[1:])
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # the rank died before the kernel knew
        return
    for each in (signal.SIGTERM, signal.SIGINT):  # whether to stop is the rank's matter
        signal.signal(each, signal.SIG_IGN)
    os.nice(_NICE)

    @cache
    def slot(number: int) -> mmap.mmap:  # not before it is written: until then it may be of another size
        return mmap.mmap(memories[number], size, mmap.MAP_SHARED | mmap.MAP_POPULATE, mmap.PROT_READ)

    copy = None
    for line in sys.stdin:
        match json.loads(line):
            case {"write": path, "instead_of": abandoned, "slot": number, "copy_to": url}:
                answer = _try(partial(_write, Path(path), abandoned, slot(number)))
                copied = {"copied": copy.finish()} if copy else {}
                print(json.dumps(answer | copied), flush=True)
                digest = answer.get("shard", {}).get("sha256", "")
                copy = Copy(memoryview(slot(number)), url, digest) if url else None
            case {"commit": what}:
                print(json.dumps(_try(partial(_commit, what))), flush=True)


def _try(act: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    try:
        return act()
    except (OSError, FencedError) as error:
        return {"failure": dataclasses.asdict(Failure.of(error))}


def _commit(what: dict[str, Any]) -> dict[str, Any]:
    commit(**what | {"folder": Path(what["folder"]), "manifest": what["manifest"].encode()})
    return {"committed": time.monotonic()}


def _discard(shard: Path, wanted: Path) -> None:
    """Remove an abandoned shard, and its folder when it was the last one there, unless that is wanted again."""
    if shard.parent != wanted:
        with suppress(OSError):  # whatever is wrong with this storage, writing to it will tell
            shard.unlink(missing_ok=True)
            shard.with_name(MANIFEST).unlink(missing_ok=True)
            shard.parent.rmdir()


def _write(path: Path, abandoned: str, memory: mmap.mmap) -> dict[str, Any]:
    if abandoned:
        _discard(Path(abandoned), path.parent)
    path.parent.mkdir(parents=True, exist_ok=True)
    digest = hashlib.sha256()
    with memoryview(memory) as content, open(path, "wb", buffering=0) as file:
        for start in range(0, len(content), _CHUNK_BYTES):
            chunk = content[start : start + _CHUNK_BYTES]
            digest.update(chunk)
            while chunk:
                chunk = chunk[file.write(chunk) :]
        os.fsync(file.fileno())
    return {"shard": Shard(file=path.name, bytes=len(memory), sha256=digest.hexdigest()).model_dump()}


if __name__ == "__main__":
    main()
