"""Saving while training goes on: when, by whom, and what to do when it fails.

    after a step     every rank takes a snapshot; the next step's update waits for what is not copied by then
    meanwhile        each rank's writer puts its shard on disk
    after a step     all have: ranks begin to tell each other the digests
    after a step     they have: rank 0's writer gets the manifest and commits
    after a step     it has: the checkpoint is reported

Ranks must agree on each of these turns, and on whether a save that comes due can begin. For that nothing is sent of its
own: every step sums its losses over the ranks anyhow, and four more numbers (`votes`) ride along. Digests travel while the
next step runs: waiting for them, and for ranks that come later out of an update, was four fifths of the stall. Only what
a writer says that has failed is waited for.

Memory is bounded: a save that comes due while the last one is under way is skipped, and counted. So a snapshot that is
overwritten is never one that is being written, nor the last one that all ranks have whole.
A save that fails is reported and tried again when the next one comes due. Training stops for it only past
`checkpoint.maxAgeSeconds`: with no checkpoint for so long, and the last save failed or itself under way for so long.
Storage that is merely slower than saves come due stops nothing. The last save, and the one on a stop, are waited for.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from types import TracebackType

from trainyard_api.checkpoint import Cursor, Manifest, Name, Shard
from trainyard_api.checkpoint_settings import CheckpointSettings
from trainyard_api.status import CheckpointStatus

from ..artifacts import settings_digest
from ..engine.engine import Engine
from ..engine.processes import Gathering, add_up, gather
from ..errors import PermanentError, RetryableError, setting
from .background import Answer, Writer
from .failure import Failure, raise_any, told
from .memory import Neighbourhood, room
from .pace import Pace
from .snapshot import Snapshot, lay_out
from .store import Checkpoints
from .tensors import training_of
from .written import Written, shard_file

_PATIENCE_SECONDS = 3_600
"""How long the last save is waited for."""

Tell = Callable[[CheckpointStatus | None, str, dict[str, float]], None]
"""Hears of every change: a checkpoint that has just been committed, what is wrong with saving, gauges."""


@dataclass
class _Save:
    """One that is under way."""

    name: Name
    started: float
    stall_seconds: float = 0.0
    shards: tuple[Shard, ...] = ()
    """All, once they are written; what is left then is the commit."""
    time: str = ""
    """Of the manifest."""
    answer: Answer | None = None
    """What this rank's writer said of the phase."""
    digests: Gathering | None = None
    """Of the shards, on their way, once they are written."""


class Saving:
    """The saves of one attempt. Methods are called by all ranks together, `votes` and `before_update` excepted."""

    def __init__(
        self,
        checkpoints: Checkpoints,
        settings: CheckpointSettings,
        engine: Engine,
        cursor: Cursor,
        tell: Tell,
        *,
        kept: int | None = None,
    ) -> None:
        """Allocate the snapshot and start the writer, once the attempt has begun. The shard that this rank began with is in
        slot `kept`, if any.
        """
        group = checkpoints.group
        self._group, self._settings, self._tell = group, settings, tell
        self._attempt, self._uri = checkpoints.attempt, checkpoints.storage.uri
        self._manifest = Manifest(
            step=0,
            attempt=checkpoints.attempt,
            time="",
            run_uid=group.job.run_uid,
            world_size=group.world_size,
            zero_stage=engine.zero_stage,
            cursor=cursor,
            settings_digest=settings_digest(group),
            parameters=engine.parameter_shapes,
            shards=[],
        )
        layout = lay_out(engine, training_of(self._manifest))
        self._neighbourhood = Neighbourhood(group)
        self._room = room(self._neighbourhood, layout.bytes)
        self._snapshot = Snapshot(engine, layout, self._room.memories, kept=kept if self._room.outlives else None)
        self._writer = Writer(self._uri, self._room.memories, layout.bytes)
        self._save: _Save | None = None
        self._skipped = self._failed = self._uncopied = 0
        self._trouble = ""
        self._abandoned: Name | None = None
        """The save that failed last, if none has succeeded since."""
        self._pace = Pace(settings, group)
        self._held_out_loss: dict[int, float] = {}
        """By step, of those that were validated."""
        self._safe_since = time.monotonic()
        self._say()

    def __enter__(self) -> "Saving":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._snapshot.close()
        self._writer.close()

    def before_update(self) -> None:
        """Return when the state may change: it is copied, if it is being copied at all."""
        started = time.monotonic()
        self._snapshot.wait()
        self._pace.leave_out(started)
        if self._save:
            self._save.stall_seconds += time.monotonic() - started

    def votes(self) -> tuple[float, float, float, float]:
        """What `after_step` wants to know of all ranks, summed: whether one is busy, whether one's writer has failed; and by
        rank 0's clock, whether a save is due, and whether the newest checkpoint is too old.
        """
        now, first = time.monotonic(), self._group.rank == 0
        self._pace.step(beside_a_save=self._save is not None)
        return self._busy(), self._has_failed(), first and self._pace.is_due(), first and self._too_old(now)

    def _too_old(self, now: float) -> bool:
        """Whether the newest checkpoint is older than allowed, and that is not because a slow save has yet to end."""
        limit = self._settings.max_age_seconds
        if limit is None or now < self._safe_since + limit:
            return False
        return bool(self._abandoned) or (self._save is not None and now >= self._save.started + limit)

    def after_step(self, step: int, busy: float, failed: float, due: float, too_old: float) -> None:
        """Take the turns that are due after `step`."""
        started = time.monotonic()
        if self._save and not busy:
            self._turn(started, failed)
        elif too_old:
            raise PermanentError(
                f"{setting('checkpoint.maxAgeSeconds')}: the newest checkpoint is more than {self._settings.max_age_seconds} s "
                f"old; {self._trouble or self._not_saved(step)}; mend the storage and start the run again, or raise the limit"
            )
        interval = self._settings.steps_interval
        if due or (interval and step % interval == 0):
            self._pace.begin()
            if self._save:
                self._skipped += 1
                self._trouble = self._not_saved(step)
                self._say()
            else:
                self._begin(step, started)
        self._pace.leave_out(started)

    def validated(self, step: int, held_out_loss: float) -> None:
        """Take note, for the manifest, of the held-out loss after `step`, which is the last one."""
        self._held_out_loss[step] = held_out_loss
        self._pace.leave_out()

    def commit(self, step: int) -> None:
        """Commit the state after `step`, the last one, and return when it is: an error is raised if it can't be.

        If need be at a second try: the first one's writer may have been killed.
        """
        if self._save and self._save.name.step != step:
            self._wait()
        for _ in range(2):
            if not self._save:
                self._begin(step, time.monotonic())
            if not (failures := self._wait()):
                return
        raise_any(failures)

    def _not_saved(self, step: int) -> str:
        assert self._save
        return f"step {step} is not saved: storage is still busy with step {self._save.name.step}"

    def _begin(self, step: int, started: float) -> None:
        self._writer.revive()
        name = Name(step, self._attempt)
        self._save = _Save(name, started)
        command = {
            "write": [*name, shard_file(self._group.rank)],
            "instead_of": self._abandoned,
            "copy_to": self._copy_to(step),
        }
        self._snapshot.begin(before=partial(self._outdated, step), then=partial(self._whole, step, command))
        self._save.stall_seconds = time.monotonic() - started

    def _copy_to(self, step: int) -> str | None:
        here = self._neighbourhood
        if not self._room.outlives or here.workers == 1:
            return None
        return here.url((here.worker + 1) % here.workers, self._group.rank, step)

    def _outdated(self, step: int, slot: int) -> None:
        if self._room.outlives:
            self._neighbourhood.tell(slot, step, 0)

    def _whole(self, step: int, command: dict[str, object], slot: int) -> None:
        if self._room.outlives:
            self._neighbourhood.tell(slot, step, self._snapshot.shard_bytes)
        self._writer.ask(command | {"slot": slot})

    def _wait(self) -> list[Failure | None]:
        """Return when no save is under way; the failures of the one that was, by rank, if it failed.

        Meanwhile there are signs of life, for storage may take longer than a rank may be silent.
        """
        self.before_update()
        failures: list[Failure | None] = []
        until = time.monotonic() + _PATIENCE_SECONDS
        while self._save:
            started = time.monotonic()
            self._busy(seconds=1)
            votes = self._busy(), self._has_failed(), self._group.rank == 0 and started > until
            busy, failed, too_long = add_up(*votes)
            if busy:
                if too_long:
                    text = f"storage has not taken step {self._save.name.step} within {_PATIENCE_SECONDS:,} s"
                    raise RetryableError(f"checkpoints: {text}; see to its speed, or save less often")
                self._say()
                self._save.stall_seconds += time.monotonic() - started
            else:
                failures = self._turn(started, failed)
        return failures

    def _busy(self, seconds: float = 0) -> bool:
        """Whether this rank has to wait for something of this phase; look for so long whether its writer ends."""
        save = self._save
        if not save or (save.shards and self._group.rank):
            return False
        if save.digests:
            return not save.digests.is_done()
        save.answer = save.answer or self._writer.answer(seconds)
        return not save.answer

    def _has_failed(self) -> bool:
        """Whether this rank's writer has, in this phase."""
        return bool(self._save and self._save.answer and self._save.answer.failure)

    def _turn(self, started: float, failed: float) -> list[Failure | None]:
        """All ranks are done with their phase: go on to the next one. Returns the failures by rank, if there are any."""
        save = self._save
        assert save
        if failed:
            failures = gather(save.answer.failure if save.answer else None)
            self._give_up(failures)
            return failures
        if save.shards:
            self._committed(started)
            return []
        if save.digests:
            self._written(save, save.digests.wait())
        else:
            assert save.answer
            save.digests = Gathering(Written.of(save.answer).packed())
        save.stall_seconds += time.monotonic() - started
        return []

    def _written(self, save: _Save, said: list[bytes]) -> None:
        """All shards are: have rank 0's writer commit."""
        written = [Written.read(each) for each in said]
        self._uncopied += sum(each.uncopied for each in written)
        save.shards = tuple(each.shard(rank) for rank, each in enumerate(written))
        save.answer = save.digests = None
        save.time = datetime.now(UTC).isoformat(timespec="milliseconds")
        if self._group.rank == 0:
            self._writer.ask({"commit": self._commit(save)})

    def _commit(self, save: _Save) -> dict[str, object]:
        found = {"step": save.name.step, "time": save.time, "shards": list(save.shards)}
        measured = {"held_out_loss": self._held_out_loss.get(save.name.step)}
        manifest = self._manifest.model_copy(update=found | measured)
        return {
            "name": save.name,
            "manifest": manifest.model_dump_json(by_alias=True, indent=1),
            "keep": self._settings.keep,
            "keep_every": self._settings.keep_every,
            "keep_best": self._settings.keep_best,
        }

    def _committed(self, started: float) -> None:
        assert self._save
        save, self._save = self._save, None
        self._trouble, self._abandoned = "", None
        self._safe_since = save.started
        stall = save.stall_seconds + time.monotonic() - started
        durable = (save.answer.committed if save.answer and save.answer.committed else started) - save.started
        self._pace.saved(stall, durable)
        status = CheckpointStatus(
            step=save.name.step,
            uri=f"{self._uri}/{save.name}",
            time=save.time,
            stall_seconds=round(stall, 4),
            durable_seconds=round(durable, 3),
            interval_seconds=round(self._pace.chosen, 1) if self._pace.chosen else None,
        )
        self._say(status)

    def _give_up(self, failures: list[Failure | None]) -> None:
        """Leave the save; a newer attempt, if that is why, ends this one."""
        assert self._save
        save, self._save = self._save, None
        if any(each.fenced for each in failures if each):
            raise_any(failures)
        self._failed += 1
        rank, failure = next((rank, each) for rank, each in enumerate(failures) if each)
        self._trouble = f"step {save.name.step} is not saved: {told(rank, failure)}"
        self._abandoned = save.name
        self._say()

    def _say(self, checkpoint: CheckpointStatus | None = None) -> None:
        gauges = {
            "checkpoint_skipped": self._skipped,
            "checkpoint_failed": self._failed,
            "checkpoint_buffer_bytes": self._snapshot.bytes,
            "checkpoint_outlives_ranks": self._room.outlives,
            "checkpoint_copies_failed": self._uncopied,
        }
        if self._pace.chosen:
            gauges["checkpoint_interval_seconds"] = self._pace.chosen
        self._tell(checkpoint, self._trouble or self._room.trouble, gauges)
