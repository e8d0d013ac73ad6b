"""The folder of a stage's checkpoints: committed all or nothing, loaded only if whole, written by one attempt at a time.
What lies in the folder is written down in `trainyard_api.checkpoint`.

A commit: every rank writes and syncs its shard, all acknowledge, rank 0 writes the manifest and syncs, checks the fence,
renames the folder. A crash before the rename leaves the older checkpoints as they were, one after it leaves a whole new
one. Loading agrees over all ranks on the newest step whose every byte is as written; ranks share the reading.
"""

import fcntl
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from trainyard_api.checkpoint import (
    FENCE,
    MANIFEST,
    REASON,
    BadCheckpointError,
    Cursor,
    Manifest,
    Shard,
    committed_steps,
    folder_name,
    quarantined_name,
    read_manifest,
    temporary_name,
    verify_shards,
)
from trainyard_api.retention import prunable
from trainyard_api.status import CheckpointStatus, Quarantined

from ..artifacts import settings_digest, sync_folder
from ..engine.engine import Engine
from ..engine.processes import from_rank_0, gather
from ..engine.randomness import save_streams
from ..errors import PermanentError, RetryableError, StageError, from_exception
from ..group import Group
from .files import write_shard, write_synced
from .tensors import shard_bytes


class Checkpoints:
    """The checkpoints of one stage, as one attempt's ranks use them. Every method is called by all ranks together."""

    def __init__(self, group: Group, keep: int, keep_every: int | None = None) -> None:
        """Raise the fence: from here on no older attempt commits, and an attempt that is older itself ends here."""
        self.folder = group.output / "checkpoints"
        self.group = group
        self.keep, self.keep_every = keep, keep_every
        self._on_rank_0(self._claim)

    def newest(self) -> tuple[Manifest, Path] | None:
        """The newest good checkpoint; None if there never was one. Bad ones on the way are quarantined."""
        steps = from_rank_0(committed_steps(self.folder) if self.group.rank == 0 else [])
        for step in reversed(steps):
            folder = self.folder / folder_name(step)
            manifest, mistake = self._verify_my_share(folder)
            mistakes = [each for each in gather(mistake) if each]
            if manifest and not mistakes:
                return manifest, folder
            self._on_rank_0(partial(self._quarantine, step, mistakes[0]))
        if quarantined := from_rank_0(sorted(each.name for each in self.folder.glob("step-*.bad"))):
            raise PermanentError(
                f"{self.folder}: every checkpoint is bad ({', '.join(quarantined)}; see reason.txt in each); restore one, "
                "or delete this folder to train from the start"
            )
        return None

    def save(self, step: int, engine: Engine, cursor: Cursor) -> CheckpointStatus:
        """Commit the state after `step`. Training waits for it; the status says how long."""
        started = time.monotonic()
        temporary = self.folder / temporary_name(step, self.group.attempt)
        self._on_rank_0(lambda: temporary.mkdir(parents=True))
        shards = self._write_my_shard(temporary, engine)
        manifest = Manifest(
            step=step,
            attempt=self.group.attempt,
            time=_now(),
            world_size=self.group.world_size,
            zero_stage=engine.zero_stage,
            cursor=cursor,
            settings_digest=settings_digest(self.group),
            parameters=engine.parameter_shapes,
            shards=shards,
        )
        final = self.folder / folder_name(step)
        self._on_rank_0(lambda: self._commit(temporary, final, manifest))
        return CheckpointStatus(
            step=step,
            uri=f"{self.group.job.output_uri}/checkpoints/{final.name}",
            time=manifest.time,
            stall_seconds=round(time.monotonic() - started, 3),
        )

    def _verify_my_share(self, folder: Path) -> tuple[Manifest | None, str]:
        try:
            manifest = read_manifest(folder)
            verify_shards(folder, manifest.shards[self.group.rank :: self.group.world_size])
        except BadCheckpointError as error:
            return None, str(error)
        return manifest, ""

    def _quarantine(self, step: int, reason: str) -> None:
        """Put a bad checkpoint aside, for whoever wants to know what happened to it, and say so."""
        folder, aside = self.folder / folder_name(step), self.folder / quarantined_name(step)
        if aside.exists():
            shutil.rmtree(aside)
        (folder / REASON).write_text(f"{reason}\n")
        folder.rename(aside)
        self.group.report(quarantined=Quarantined(step=step, reason=reason, time=_now()))

    def _write_my_shard(self, folder: Path, engine: Engine) -> list[Shard]:
        """Write this rank's shard; all ranks' shards once all are on disk."""
        mine = engine.fragments() if self.group.rank == 0 or not engine.replicated else []
        path = folder / f"rank-{self.group.rank:05}.safetensors"
        shard, failure = None, None
        try:
            shard = write_shard(path, shard_bytes(mine, save_streams()))
        except OSError as error:
            failure = _failure(error)
        _raise_any(gather(failure))
        return [each for each in gather(shard) if each]

    def _commit(self, temporary: Path, final: Path, manifest: Manifest) -> None:
        write_synced(temporary / MANIFEST, manifest.model_dump_json(by_alias=True, indent=1).encode())
        sync_folder(temporary)
        with self._fence() as highest:
            if highest > self.group.attempt:
                raise RetryableError(
                    f"attempt {highest} has begun; attempt {self.group.attempt} saves nothing any more"
                )
            if final.exists():  # of an older attempt, which went on after this one had looked
                _remove(final)
            temporary.rename(final)
            sync_folder(self.folder)
        for step in prunable(committed_steps(self.folder), self.keep, self.keep_every):
            _remove(self.folder / folder_name(step))

    def _claim(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        with self._fence(claim=self.group.attempt) as highest:
            if highest > self.group.attempt:
                raise RetryableError(f"attempt {highest} has begun; attempt {self.group.attempt} is over")
            for leftover in self.folder.glob("*.tmp"):
                shutil.rmtree(leftover)

    @contextmanager
    def _fence(self, claim: int = 0) -> Iterator[int]:
        """The highest attempt so far, raised to `claim`. While the block runs, no other attempt claims or commits."""
        with open(os.open(self.folder / FENCE, os.O_RDWR | os.O_CREAT, 0o644), "r+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            highest = int(file.read() or 0)
            if claim > highest:
                os.pwrite(file.fileno(), b"%010d\n" % claim, 0)
                os.fsync(file.fileno())
            yield max(highest, claim)

    def _on_rank_0(self, act: Callable[[], object]) -> None:
        """Let rank 0 act on the folder; what fails there, fails on every rank, so that none waits for the others."""
        failure = None
        if self.group.rank == 0:
            try:
                act()
            except (OSError, RetryableError) as error:
                failure = _failure(error)
        _raise_any([from_rank_0(failure)])


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")


_Failure = tuple[type[StageError], str]


def _failure(error: Exception) -> _Failure:
    """What to raise on every rank, for an error of one: what isn't known to last is worth another try."""
    known = from_exception(error)
    return (PermanentError if isinstance(known, PermanentError) else RetryableError), str(known or error)


def _raise_any(failures: list[_Failure | None]) -> None:
    for rank, failure in enumerate(failures):
        if failure:
            kind, text = failure
            raise kind(f"checkpoints: rank {rank}: {text}")


def _remove(checkpoint: Path) -> None:
    """Delete a checkpoint such that no half of it can be taken for one."""
    doomed = checkpoint.with_name(f"{checkpoint.name}.old.tmp")
    checkpoint.rename(doomed)
    shutil.rmtree(doomed)
