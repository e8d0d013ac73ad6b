"""The process that writes a rank's shards: `python -m trainyard_trainer.checkpoint.writer URI PARENT BYTES MEMORY…`.

A process, for hashing and writing on a thread would hold up the training loop at every turn of the GIL. It is small (it
imports no torch), started before training, maps its rank's memory, and dies with its rank. Commands come as JSON lines on
standard input, answers go as JSON lines to standard output:

    {"write": [step, attempt, file], "instead_of": [step, attempt], "slot": n, "copy_to": url}
                                          the slot into a shard of that checkpoint, hashed meanwhile, after making room by
                                          removing what a save that failed has left; then, on the side, to the next
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
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import cache, partial
from typing import Any

from trainyard_api.checkpoint import Name, Shard
from trainyard_api.storage import Storage, open_storage

from .commit import FencedError, commit, remove
from .copying import Copy
from .failure import Failure

_PR_SET_PDEATHSIG = 1
_NICE = 5
"""Training goes first where cores are few."""


def main() -> None:
    """Do what the rank says, until it is gone."""
    uri = sys.argv[1]
    parent, size, *memories = map(int, sys.argv[2:])
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # the rank died before the kernel knew
        return
    for each in (signal.SIGTERM, signal.SIGINT):  # whether to stop is the rank's matter
        signal.signal(each, signal.SIG_IGN)
    os.nice(_NICE)
    checkpoints = open_storage(uri)

    @cache
    def slot(number: int) -> mmap.mmap:  # not before it is written: until then it may be of another size
        return mmap.mmap(memories[number], size, mmap.MAP_SHARED | mmap.MAP_POPULATE, mmap.PROT_READ)

    copy = None
    for line in sys.stdin:
        match json.loads(line):
            case {"write": [step, attempt, file], "instead_of": abandoned, "slot": number, "copy_to": url}:
                answer = _try(partial(_write, checkpoints, Name(step, attempt), file, abandoned, slot(number)))
                copied = {"copied": copy.finish()} if copy else {}
                print(json.dumps(answer | copied), flush=True)
                digest = answer.get("shard", {}).get("sha256", "")
                copy = Copy(memoryview(slot(number)), url, digest) if url else None
            case {"commit": what}:
                print(json.dumps(_try(partial(_commit, checkpoints, what))), flush=True)


def _try(act: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    try:
        return act()
    except (OSError, FencedError) as error:
        return {"failure": dataclasses.asdict(Failure.of(error))}


def _commit(checkpoints: Storage, what: dict[str, Any]) -> dict[str, Any]:
    commit(checkpoints, **what | {"name": Name(*what["name"]), "manifest": what["manifest"].encode()})
    return {"committed": time.monotonic()}


def _write(
    checkpoints: Storage, name: Name, file: str, abandoned: list[int] | None, memory: mmap.mmap
) -> dict[str, Any]:
    if abandoned:
        left = Name(*abandoned)
        with suppress(OSError):  # whatever is wrong with this storage, writing to it will tell
            if left != name:
                remove(checkpoints, left)
            checkpoints.at(str(left)).tidy(lambda path: path == file)  # of a writer of this rank that was killed
    with memoryview(memory) as content, ThreadPoolExecutor(1) as pool:
        digest = pool.submit(hashlib.sha256, content)
        checkpoints.write(f"{name}/{file}", content)
        return {"shard": Shard(file=file, bytes=len(content), sha256=digest.result().hexdigest()).model_dump()}


if __name__ == "__main__":
    main()
