"""Saving while training goes on: when, by whom, and what to do when it fails.

    after a step     every rank takes a snapshot; the next step's update waits for what is not copied by then
    meanwhile        each rank's writer puts its shard on disk
    after a step     all have: rank 0's writer gets the manifest and commits
    after a step     it has: the checkpoint is reported

Ranks must agree on each of these turns, and on whether a save that comes due can begin. For that nothing is sent of its
own: every step sums its losses over the ranks anyhow, and three more numbers (`votes`) ride along. Only when all writers
are done is there a collective, once a phase, for digests and failures.

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
from ..engine.processes import add_up, gather
from ..errors import PermanentError, RetryableError
from .background import Answer, Writer
from .failure import Failure, raise_any, told
from .interval import FIRST_SECONDS, Cost, best_interval, between_failures
from .memory import Neighbourhood, room
from .snapshot import Snapshot, lay_out
from .store import Checkpoints
from .tensors import training_of

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
        layout = lay_out(engine, training_of(self._manifest), streams_only=engine.replicated and group.rank > 0)
        self._neighbourhood = Neighbourhood(group)
        self._room = room(self._neighbourhood, layout.bytes)
        self._snapshot = Snapshot(engine, layout, self._room.memories, kept=kept if self._room.outlives else None)
        self._writer = Writer(self._uri, self._room.memories, layout.bytes)
        self._save: _Save | None = None
        self._skipped = self._failed = self._uncopied = 0
        self._trouble = ""
        self._abandoned: Name | None = None
        """The save that failed last, if none has succeeded since."""
        self._auto = settings.every_seconds == "auto"
        self._every = FIRST_SECONDS if settings.every_seconds == "auto" else settings.every_seconds
        """Seconds from one save to the next."""
        self._cost = Cost()
        self._waited = 0.0
        """By this step, for the snapshot."""
        self._held_out_loss: dict[int, float] = {}
        """By step, of those that were validated."""
        self._due_since = self._safe_since = self._began = self._step_began = self._left = time.monotonic()
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
        self._waited = time.monotonic() - started
        if self._save:
            self._save.stall_seconds += self._waited

    def votes(self) -> tuple[float, float, float]:
        """What `after_step` wants to know of all ranks, summed: whether one is busy; and by rank 0's clock, whether a
        save is due, and whether the newest checkpoint is too old.
        """
        now, first = time.monotonic(), self._group.rank == 0
        self._cost.step(now - self._step_began - self._waited, beside_a_save=self._save is not None)
        self._step_began = now
        due = self._every is not None and now >= self._due_since + self._every
        return self._busy(), first and due, first and self._too_old(now)

    def _too_old(self, now: float) -> bool:
        """Whether the newest checkpoint is older than allowed, and that is not because a slow save has yet to end."""
        limit = self._settings.max_age_seconds
        if limit is None or now < self._safe_since + limit:
            return False
        return bool(self._abandoned) or (self._save is not None and now >= self._save.started + limit)

    def after_step(self, step: int, busy: float, due: float, too_old: float) -> None:
        """Take the turns that are due after `step`."""
        started = time.monotonic()
        if self._save and not busy:
            self._turn(started)
        elif too_old:
            raise PermanentError(
                f"pretrain.checkpoint.maxAgeSeconds: the newest checkpoint is more than {self._settings.max_age_seconds} s "
                f"old; {self._trouble or self._not_saved(step)}; mend the storage and start the run again, or raise the limit"
            )
        interval = self._settings.steps_interval
        if due or (interval and step % interval == 0):
            self._due_since = started
            if self._save:
                self._skipped += 1
                self._trouble = self._not_saved(step)
                self._say()
            else:
                self._begin(step, started)
        self._left = time.monotonic()
        self._step_began += self._left - started

    def validated(self, step: int, held_out_loss: float) -> None:
        """Take note, for the manifest, of the held-out loss after `step`, which is the last one."""
        self._held_out_loss[step] = held_out_loss
        self._step_began += time.monotonic() - self._left

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
        shard = f"rank-{self._group.rank:05}.safetensors"
        command = {"write": [*name, shard], "instead_of": self._abandoned, "copy_to": self._copy_to(step)}
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
            busy, too_long = add_up(self._busy(), self._group.rank == 0 and started > until)
            if busy:
                if too_long:
                    text = f"storage has not taken step {self._save.name.step} within {_PATIENCE_SECONDS:,} s"
                    raise RetryableError(f"checkpoints: {text}; see to its speed, or save less often")
                self._say()
                self._save.stall_seconds += time.monotonic() - started
            else:
                failures = self._turn(started)
        return failures

    def _busy(self, seconds: float = 0) -> bool:
        """Whether this rank's writer has something to do; look for so long whether it ends."""
        save = self._save
        if not save or (save.shards and self._group.rank):
            return False
        save.answer = save.answer or self._writer.answer(seconds)
        return not save.answer

    def _turn(self, started: float) -> list[Failure | None]:
        """All writers are done with their phase: go on to the next one. Returns the failures by rank, if there are any."""
        assert self._save
        answers = gather(self._save.answer)
        self._uncopied += sum(each.copied is False for each in answers if each)
        failures = [each.failure if each else None for each in answers]
        if any(failures):
            self._give_up(failures)
            return failures
        if self._save.shards:
            self._committed(started, answers[0])
            return []
        self._save.shards = tuple(each.shard for each in answers if each and each.shard)
        self._save.answer = None
        self._save.time = datetime.now(UTC).isoformat(timespec="milliseconds")
        if self._group.rank == 0:
            self._writer.ask({"commit": self._commit(self._save)})
        self._save.stall_seconds += time.monotonic() - started
        return []

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

    def _committed(self, started: float, answer: Answer | None) -> None:
        assert self._save
        assert answer
        assert answer.committed
        save, self._save = self._save, None
        self._trouble, self._abandoned = "", None
        self._safe_since = save.started
        stall = save.stall_seconds + time.monotonic() - started
        durable = answer.committed - save.started
        self._choose_interval(self._cost.saved(stall), durable)
        status = CheckpointStatus(
            step=save.name.step,
            uri=f"{self._uri}/{save.name}",
            time=save.time,
            stall_seconds=round(stall, 4),
            durable_seconds=round(durable, 3),
            interval_seconds=round(self._every, 1) if self._auto and self._every else None,
        )
        self._say(status)

    def _choose_interval(self, cost: float, durable: float) -> None:
        if self._auto:
            job = self._group.job
            seconds = job.recovered_seconds + time.monotonic() - self._began
            apart = between_failures(job.recoveries, seconds, self._group.world_size)
            self._every = best_interval(cost, durable, apart)

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
        if self._auto and self._every:
            gauges["checkpoint_interval_seconds"] = self._every
        self._tell(checkpoint, self._trouble or self._room.trouble, gauges)
