"""Committing a checkpoint, for one attempt at a time: all that moves names in the folder, and nothing that needs torch.

The fence is a file with the highest attempt that has begun. Whoever claims or commits holds its lock meanwhile, so an
older attempt either commits before the newer one looks, or not at all.
"""

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from trainyard_api.checkpoint import (
    FENCE,
    MANIFEST,
    BadCheckpointError,
    committed_steps,
    folder_name,
    read_manifest,
    temporary_name,
)
from trainyard_api.retention import best_steps, prunable

from ..artifacts import sync_folder


class FencedError(Exception):
    """A newer attempt has begun; str(e) says which."""


def claim(folder: Path, attempt: int) -> None:
    """Raise the fence to `attempt`, and clear away what attempts before it left half written."""
    folder.mkdir(parents=True, exist_ok=True)
    with _fence(folder, claim=attempt) as highest:
        if highest > attempt:
            raise FencedError(f"attempt {highest} has begun; attempt {attempt} is over")
        for leftover in folder.glob("*.tmp"):
            shutil.rmtree(leftover, ignore_errors=True)  # a writer that isn't dead yet may still add to it


def commit(
    folder: Path,
    step: int,
    attempt: int,
    manifest: bytes,
    keep: int,
    keep_every: int | None,
    keep_best: int | None,
) -> None:
    """Make a whole checkpoint of the temporary folder, in which every shard is on disk. Then prune."""
    temporary, final = folder / temporary_name(step, attempt), folder / folder_name(step)
    write_synced(temporary / MANIFEST, manifest)
    sync_folder(temporary)
    with _fence(folder) as highest:
        if highest > attempt:
            raise FencedError(f"attempt {highest} has begun; attempt {attempt} saves nothing any more")
        if final.exists():  # of an older attempt, which went on after this one had looked
            _remove(final)
        temporary.rename(final)
        sync_folder(folder)
    with suppress(OSError):  # the checkpoint is committed all the same, and the next commit prunes again
        steps = committed_steps(folder)
        losses = {step: _held_out_loss(folder / folder_name(step)) for step in steps} if keep_best else {}
        for old in prunable(steps, keep, keep_every, best_steps(losses, keep_best or 0)):
            _remove(folder / folder_name(old))


def _held_out_loss(checkpoint: Path) -> float | None:
    try:
        return read_manifest(checkpoint).held_out_loss
    except BadCheckpointError:
        return None


def write_synced(path: Path, content: bytes) -> None:
    """Write a file that a power cut can't take any more (its name is the folder's matter)."""
    with open(path, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


@contextmanager
def _fence(folder: Path, claim: int = 0) -> Iterator[int]:
    """The highest attempt so far, raised to `claim`. While the block runs, no other attempt claims or commits."""
    with open(os.open(folder / FENCE, os.O_RDWR | os.O_CREAT, 0o644), "r+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        highest = int(file.read() or 0)
        if claim > highest:
            os.pwrite(file.fileno(), b"%010d\n" % claim, 0)
            os.fsync(file.fileno())
        yield max(highest, claim)


def _remove(checkpoint: Path) -> None:
    """Delete a checkpoint such that no half of it can be taken for one."""
    doomed = checkpoint.with_name(f"{checkpoint.name}.old.tmp")
    checkpoint.rename(doomed)
    shutil.rmtree(doomed)
