"""The process that writes a rank's shards: `python -m trainyard_trainer.checkpoint.writer MEMORY BYTES PARENT`.

A process, for hashing and writing on a thread would hold up the training loop at every turn of the GIL. It is small (it
imports no torch), started before training, maps its rank's memory, and dies with its rank. Commands come as JSON lines on
standard input, answers go as JSON lines to standard output:

    {"write": path, "instead_of": path}   the memory into the file, hashed on the way and synced, after making room by
                                          removing the shard of a save that failed   → {"shard": …}
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
from contextlib import suppress
from pathlib import Path
from typing import Any

from trainyard_api.checkpoint import MANIFEST, Shard

from .commit import FencedError, commit
from .failure import Failure

_CHUNK_BYTES = 4 * 1024 * 1024
_PR_SET_PDEATHSIG = 1
_NICE = 5
"""Training goes first where cores are few."""


def main() -> None:
    """Do what the rank says, until it is gone."""
    descriptor, size, parent = map(int, sys.argv[1:])
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # the rank died before the kernel knew
        return
    for each in (signal.SIGTERM, signal.SIGINT):  # whether to stop is the rank's matter
        signal.signal(each, signal.SIG_IGN)
    os.nice(_NICE)
    memory = mmap.mmap(descriptor, size, mmap.MAP_SHARED | mmap.MAP_POPULATE, mmap.PROT_READ)
    for line in sys.stdin:
        print(json.dumps(_answer(json.loads(line), memory)), flush=True)


def _answer(command: dict[str, Any], memory: mmap.mmap) -> dict[str, Any]:
    try:
        match command:
            case {"write": path, "instead_of": abandoned}:
                if abandoned:
                    _discard(Path(abandoned), Path(path).parent)
                return {"shard": _write(Path(path), memory).model_dump()}
            case {"commit": what}:
                commit(**what | {"folder": Path(what["folder"]), "manifest": what["manifest"].encode()})
                return {"committed": time.monotonic()}
    except (OSError, FencedError) as error:
        return {"failure": dataclasses.asdict(Failure.of(error))}
    raise AssertionError(command)


def _discard(shard: Path, wanted: Path) -> None:
    """Remove an abandoned shard, and its folder when it was the last one there, unless that is wanted again."""
    if shard.parent != wanted:
        with suppress(OSError):  # whatever is wrong with this storage, writing to it will tell
            shard.unlink(missing_ok=True)
            shard.with_name(MANIFEST).unlink(missing_ok=True)
            shard.parent.rmdir()


def _write(path: Path, memory: mmap.mmap) -> Shard:
    path.parent.mkdir(parents=True, exist_ok=True)
    digest = hashlib.sha256()
    with memoryview(memory) as content, open(path, "wb", buffering=0) as file:
        for start in range(0, len(content), _CHUNK_BYTES):
            chunk = content[start : start + _CHUNK_BYTES]
            digest.update(chunk)
            while chunk:
                chunk = chunk[file.write(chunk) :]
        os.fsync(file.fileno())
    return Shard(file=path.name, bytes=len(memory), sha256=digest.hexdigest())


if __name__ == "__main__":
    main()
