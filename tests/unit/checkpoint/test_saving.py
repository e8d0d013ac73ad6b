"""Saving while training goes on: a rank in the tests' own process, a real writer process, a real disk.

Storage that is slow is a writer that is stopped for a while (SIGSTOP): nothing else is as slow, and for as long as asked.
"""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from conditions import eventually
from engines import CURSOR, an_engine
from mounts import mounted
from trainyard_api.checkpoint import Name, committed
from trainyard_api.checkpoint_settings import CheckpointSettings
from trainyard_api.status import CheckpointStatus
from trainyard_trainer.checkpoint.saving import Saving
from trainyard_trainer.checkpoint.store import Checkpoints
from trainyard_trainer.engine.engine import Engine
from trainyard_trainer.errors import PermanentError, RetryableError
from trainyard_trainer.group import Group


class Training:
    """A loop around `Saving` whose steps set the whole state to their number, and do nothing else."""

    def __init__(self, group: Group, engine: Engine, **settings: int) -> None:
        self.checkpoints = Checkpoints(group)
        self.checkpoints.begin(0)
        self.engine = engine
        self.folder = group.output / "checkpoints"
        self.step = 0
        self.told: list[CheckpointStatus] = []
        self.trouble = ""
        self.gauges: dict[str, float] = {}
        self.saving = Saving(self.checkpoints, CheckpointSettings(**settings), engine, CURSOR, self._tell)

    def __enter__(self) -> "Training":
        return self

    def __exit__(self, *error: Any) -> None:
        self.saving.__exit__(*error)

    def _tell(self, checkpoint: CheckpointStatus | None, trouble: str, gauges: dict[str, float]) -> None:
        self.told += [checkpoint] if checkpoint else []
        self.trouble, self.gauges = trouble, gauges

    def train(self, steps: int = 1, *, must: bool = False) -> None:
        for _ in range(steps):
            self.step += 1
            self.saving.before_update()
            for fragment in self.engine.fragments():
                for values in fragment.state.values():
                    values.fill_(self.step)
            votes = map(float, self.saving.votes())
            if must:
                self.saving.commit(self.step)
            else:
                self.saving.after_step(self.step, *votes)

    def until(self, holds: Callable[[], object], what: str) -> None:
        """Train on until then."""
        deadline = time.monotonic() + 20
        while not holds():
            assert time.monotonic() < deadline, f"{what}: not within 20 s; {self.trouble} {self.gauges} {self.told}"
            self.train()
            time.sleep(0.002)

    @property
    def committed(self) -> list[int]:
        return [name.step for name in committed(self.checkpoints.storage)]

    def leftovers(self) -> list[str]:
        """What saves have left that became no checkpoint; but not the next one, which may have begun by now."""
        done = [Name.read(Path(each.uri).name) for each in self.told]
        folders = [Name.read(each.name) for each in self.folder.glob("step-*")]
        return [str(name) for name in folders if name < done[-1] and name not in done]

    @property
    def writer(self) -> int:
        """The process that writes."""
        return self.saving._writer._process.pid


@pytest.fixture(scope="module")
def engine(device: torch.device) -> Engine:
    return an_engine(device)


@contextmanager
def stopped(process: int) -> Iterator[None]:
    os.kill(process, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(process, signal.SIGCONT)


def test_training_goes_on_while_a_checkpoint_is_written(group: Group, engine: Engine) -> None:
    with Training(group, engine, every_steps=10) as loop:
        with stopped(loop.writer):
            loop.train(19)
            assert loop.committed == []
        loop.until(lambda: loop.told, "a commit")
    assert loop.told[0].step == 10
    assert loop.told[0].durable_seconds > loop.told[0].stall_seconds > 0


def test_what_is_saved_is_the_state_after_its_step_whatever_came_after(group: Group, engine: Engine) -> None:
    with Training(group, engine, every_steps=10) as loop:
        with stopped(loop.writer):
            loop.train(15)
        loop.until(lambda: loop.told, "a commit")
    newest = Checkpoints(group).newest()
    assert newest
    manifest, shards = newest
    for name, shape in manifest.parameters.items():
        for kind in ("master", "exp_avg", "exp_avg_sq"):
            assert shards.read(kind, name, 0, torch.Size(shape).numel()).unique().tolist() == [10], name


def test_a_save_that_comes_due_while_one_is_written_is_skipped_and_counted(group: Group, engine: Engine) -> None:
    with Training(group, engine, every_steps=10) as loop:
        with stopped(loop.writer):
            loop.train(30)
        assert loop.gauges["checkpoint_skipped"] == 2
        assert loop.trouble == "step 30 is not saved: storage is still busy with step 10"
        loop.until(lambda: loop.told, "a commit")
        assert (loop.trouble, loop.told[0].step) == ("", 10)
        loop.until(lambda: len(loop.told) > 1, "the next commit")
    assert loop.told[1].step % 10 == 0


def test_memory_is_that_of_one_shard_and_reported(group: Group, engine: Engine) -> None:
    with Training(group, engine) as loop:
        loop.train(must=True)
        [shard] = loop.folder.glob("*/*.safetensors")
        assert loop.gauges["checkpoint_buffer_bytes"] == shard.stat().st_size


def test_seconds_decide_where_steps_do_not(group: Group, engine: Engine) -> None:
    with Training(group, engine, every_seconds=1) as loop:
        loop.until(lambda: loop.told, "a commit")
        first = loop.told[0].step
        loop.until(lambda: len(loop.told) > 1, "another")
    assert 1 < first < loop.told[1].step


@pytest.mark.parametrize("when", ["before it is asked", "while it writes"])
def test_a_writer_that_is_killed_costs_one_save(group: Group, engine: Engine, when: str) -> None:
    with Training(group, engine, every_steps=10) as loop:
        if when == "while it writes":
            with stopped(loop.writer):
                loop.train(10)
                os.kill(loop.writer, signal.SIGKILL)
            loop.until(lambda: loop.gauges["checkpoint_failed"], "a failure")
            assert "the process that writes checkpoints was killed" in loop.trouble
        else:
            os.kill(loop.writer, signal.SIGKILL)
        loop.until(lambda: loop.told, "a commit")
    assert loop.trouble == ""
    assert loop.leftovers() == []


def test_the_last_save_gets_another_writer_when_its_own_is_killed(group: Group, engine: Engine) -> None:
    with Training(group, engine, every_steps=10) as loop:
        with stopped(loop.writer):
            loop.train(10)
            os.kill(loop.writer, signal.SIGKILL)
        loop.train(must=True)
    assert [each.step for each in loop.told] == [11]


def test_a_writer_dies_with_its_rank(group: Group, engine: Engine) -> None:
    code = """
import os, time
from trainyard_trainer.checkpoint.background import Writer
memory = os.memfd_create("test"); os.ftruncate(memory, 4096)
print(Writer("file:///nowhere", [memory], 4096)._process.pid, flush=True)
time.sleep(60)
"""
    rank = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    writer = Path("/proc", rank.stdout.readline().strip())
    eventually((lambda: b"checkpoint.writer" in (writer / "cmdline").read_bytes()), 10, "a writer")
    rank.kill()
    rank.wait()
    eventually(lambda: not writer.exists() or " Z " in (writer / "stat").read_text(), 10, "the writer's end")


def test_storage_that_fails_does_not_stop_training_and_saving_resumes(group: Group, engine: Engine) -> None:
    with Training(group, engine, every_steps=10) as loop:
        loop.folder.rename(group.output / "elsewhere")
        loop.folder.write_text("a file where a folder should be")
        loop.until(lambda: loop.gauges["checkpoint_failed"] == 2, "two failures")
        assert re.match(r"step \d+0 is not saved: checkpoints: rank 0: .*File exists", loop.trouble)
        loop.folder.unlink()
        (group.output / "elsewhere").rename(loop.folder)
        loop.until(lambda: loop.told, "a commit")
    assert loop.trouble == ""


def test_a_full_disk_does_not_stop_training_and_room_made_is_used(group: Group, engine: Engine) -> None:
    with Training(group, engine, every_steps=10) as loop:
        size = int(loop.gauges["checkpoint_buffer_bytes"])
        with mounted(loop.folder, f"size={size // 2}") as remount:
            loop.until(lambda: loop.gauges["checkpoint_failed"] == 2, "two failures")
            assert "No space left on device" in loop.trouble
            assert remount(f"size={size * 4}")
            loop.until(lambda: loop.told, "a commit")
            assert loop.leftovers() == [], "an abandoned shard keeps its room"


def test_read_only_storage_does_not_stop_training(group: Group, engine: Engine) -> None:
    with Training(group, engine, every_steps=10) as loop, mounted(loop.folder) as remount:
        assert remount("ro")
        loop.until(lambda: loop.gauges["checkpoint_failed"], "a failure")
        assert "Read-only file system" in loop.trouble
        with pytest.raises(RetryableError, match="Read-only file system"):
            loop.train(must=True)
        assert remount("rw")
        loop.train(must=True)
    assert loop.told[-1].step == loop.step


def test_a_checkpoint_that_grows_too_old_while_saving_fails_ends_the_run(group: Group, engine: Engine) -> None:
    too_old = pytest.raises(PermanentError, match=r"maxAgeSeconds: .* 1 s old; step \d+ is not saved: ")
    with Training(group, engine, every_steps=10, max_age_seconds=1) as loop, stopped(loop.writer), too_old:
        loop.until(lambda: False, "the end")


def test_without_trouble_no_checkpoint_is_too_old(group: Group, engine: Engine) -> None:
    began = time.monotonic()
    with Training(group, engine, every_steps=1_000_000, max_age_seconds=1) as loop:
        loop.until(lambda: time.monotonic() > began + 1.5, "time passes")


def test_a_save_that_is_merely_slow_ends_no_run_however_old_the_checkpoint_before_it_is(
    group: Group, engine: Engine
) -> None:
    with Training(group, engine, every_steps=10, max_age_seconds=2) as loop:
        began = time.monotonic()
        loop.train(9)
        eventually(lambda: time.monotonic() > began + 2, 10, "the age that is allowed")
        with stopped(loop.writer):
            loop.train(12)
            assert loop.trouble == "step 20 is not saved: storage is still busy with step 10"
        loop.until(lambda: loop.told, "a commit")


def test_a_save_that_does_not_end_ends_the_run_also_if_no_other_comes_due(group: Group, engine: Engine) -> None:
    too_old = pytest.raises(
        PermanentError, match=r"1 s old; step \d+ is not saved: storage is still busy with step 1000;"
    )
    with Training(group, engine, every_steps=1000, max_age_seconds=1) as loop, stopped(loop.writer), too_old:
        loop.train(1000)
        eventually(lambda: time.monotonic() > loop.saving._save.started + 1, 10, "the age that is allowed")
        loop.train(2)
