"""One of the ranks that `benchmarks.checkpoint` measures. Leaves results.json."""

import json
import os
import shutil
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from trainyard_api.checkpoint import Cursor
from trainyard_api.checkpoint_settings import CheckpointSettings
from trainyard_api.status import CheckpointStatus
from trainyard_api.training_stages import ModelSettings, PretrainStage
from trainyard_trainer.checkpoint.memory import Neighbourhood, newest
from trainyard_trainer.checkpoint.restore import load_state, load_weights
from trainyard_trainer.checkpoint.saving import Saving
from trainyard_trainer.checkpoint.store import Checkpoints
from trainyard_trainer.data.batch import Batch
from trainyard_trainer.engine import processes
from trainyard_trainer.engine.engine import Engine
from trainyard_trainer.group import Group
from trainyard_trainer.models.build import build_model, model_config

EVERY_SECONDS = 30
SEQUENCE_LENGTH = 64
MODEL = {"hidden_size": 512, "intermediate_size": 1408, "num_hidden_layers": 8, "num_attention_heads": 8}
STAGE = {
    "data": "corpus",
    "model": {"type": "llama", "config": MODEL},
    "steps": 1,
    "sequenceLength": SEQUENCE_LENGTH,
    "globalBatch": 2,
    "microBatch": 1,
    "deepspeed": {"zero_optimization": {"stage": 2}},
}


class Training:
    """Steps on random tokens, with a saving that saves when it is told to."""

    def __init__(self, group: Group, device: torch.device) -> None:
        settings = ModelSettings(type="llama", config=MODEL)
        self.config = model_config(settings, vocab_size=32_000, end_of_text=0, sequence_length=SEQUENCE_LENGTH)
        self.engine = Engine(build_model(self.config, seed=0), PretrainStage.model_validate(STAGE), 1, device)
        self.fresh_model = build_model(self.config, seed=1)
        self.group = group
        tokens_BT = torch.randint(0, 32_000, (1, SEQUENCE_LENGTH + 1))
        self.batch = Batch(inputs={"input_ids": tokens_BT[:, :-1]}, labels=tokens_BT[:, 1:])
        self.steps = 0
        self.committed: list[CheckpointStatus] = []
        self.checkpoints = Checkpoints(group)
        self.checkpoints.begin(0)
        cursor = Cursor(seed=0, global_batch=2, sequence_length=SEQUENCE_LENGTH, parts=[])
        settings = CheckpointSettings(every_seconds=EVERY_SECONDS)
        self.saving = Saving(self.checkpoints, settings, self.engine, cursor, self._tell)

    def step(self, save: bool | None = False) -> None:
        """A step as the pretrain stage does it. `save` after it, or not, or (None) when it is due by the clock."""
        my_loss = self.engine.gradients([self.batch])
        self.saving.before_update()
        loss, busy, failed, due, too_old = processes.add_up(my_loss, *self.saving.votes())
        self.steps += 1
        self.engine.update(self.steps, loss, 1e-5)
        self.saving.after_step(self.steps, busy, failed, due if save is None else save, too_old)

    def settle(self) -> None:
        """Train until no save is under way."""
        while self.saving._save:
            self.step()

    def state(self) -> dict[str, torch.Tensor]:
        """Masters and moments of this rank, as views."""
        pairs = [(each, kind) for each in self.engine.fragments() for kind in each.state]
        return {f"{self.group.rank}/{kind}/{each.name}": each.state[kind] for each, kind in pairs}

    def neighbourhood(self) -> Neighbourhood:
        """What the agent of both ranks would tell them, after the last save."""
        slot = 1 - self.saving._snapshot._next
        memory, size = int(os.environ["TRAINYARD_SNAPSHOT_FDS"].split(",")[slot]), self.saving._snapshot.shard_bytes
        held = [
            {
                "rank": rank,
                "step": self.committed_step,
                "attempt": self.group.attempt,
                "bytes": size,
                "fd": os.open(f"/proc/{process}/fd/{memory}", os.O_RDWR),
            }
            for rank, (process, memory, size) in enumerate(processes.gather((os.getpid(), memory, size)))
        ]
        return Neighbourhood(self.group, os.environ | {"TRAINYARD_SNAPSHOTS": json.dumps(held)})

    @property
    def committed_step(self) -> int:
        """Of the last save."""
        return self.committed[-1].step

    def _tell(self, checkpoint: CheckpointStatus | None, trouble: str, gauges: dict[str, float]) -> None:
        if trouble:
            raise RuntimeError(trouble)
        self.committed += [checkpoint] if checkpoint else []


def seconds(act: Callable[[], Any]) -> float:
    """How long the slowest rank takes for it, all having begun together."""
    dist.barrier()
    started = time.monotonic()
    act()
    return slowest(time.monotonic() - started)


def slowest(mine: float) -> float:
    return max(processes.gather(mine))


def by_trainyard(training: Training, folder: Path) -> tuple[float, float]:
    training.step(save=True)
    training.settle()
    status = training.committed[-1]
    return slowest(status.stall_seconds), slowest(status.durable_seconds)


def by_deepspeed(training: Training, folder: Path) -> tuple[float, float]:
    training.step()
    blocking = seconds(lambda: training.engine._deepspeed.save_checkpoint(str(folder), tag="step"))
    return blocking, blocking


def by_dcp(training: Training, folder: Path) -> tuple[float, float]:
    training.step()
    dist.barrier()
    started = time.monotonic()
    saved = dcp.async_save(training.state(), checkpoint_id=folder, process_group=DCP_GROUP)
    stall = slowest(time.monotonic() - started)
    while processes.add_up(not saved.done()) != [0]:
        training.step()
    saved.result()
    return stall, slowest(time.monotonic() - started)


def restore_trainyard(training: Training, folder: Path) -> None:
    newest = training.checkpoints.newest()
    load_weights(training.fresh_model, *newest)
    load_state(training.engine, *newest, training.group)


def restore_from_memory(training: Training, folder: Path) -> None:
    found = newest(training.checkpoints, training.neighbourhood())
    assert found
    assert found.source == "memory"
    load_weights(training.fresh_model, found.manifest, found.shards)
    load_state(training.engine, found.manifest, found.shards, training.group)


def forget(folder: Path) -> None:
    """Have the kernel drop the files' pages, so that reading them is reading the disk."""
    for file in folder.rglob("*"):
        if file.is_file():
            descriptor = os.open(file, os.O_RDONLY)
            os.fsync(descriptor)  # what isn't on disk yet can't be dropped
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(descriptor)


def restore_deepspeed(training: Training, folder: Path) -> None:
    path, _ = training.engine._deepspeed.load_checkpoint(str(folder), tag="step")
    assert path


def restore_dcp(training: Training, folder: Path) -> None:
    dcp.load(training.state(), checkpoint_id=folder, process_group=DCP_GROUP)


METHODS = {
    "trainyard": (by_trainyard, restore_trainyard),
    "deepspeed": (by_deepspeed, restore_deepspeed),
    "dcp": (by_dcp, restore_dcp),
}


def ratios(training: Training, count: int, steps: int) -> list[float]:
    """Time that a run which saves by the clock takes, as a multiple of one that doesn't, for each pair of windows."""
    pairs = [(window(training, steps, False), window(training, steps, None)) for _ in range(count)]
    return [saving / never for never, saving in pairs]


def window(training: Training, steps: int, save: bool | None) -> float:
    training.settle()
    return seconds(lambda: [training.step(save) for _ in range(steps)])


def ratio_of_one_save(training: Training, steps: int) -> float:
    """The same, from what one save adds to the steps during which it is written."""
    never = window(training, steps, False) / steps
    before = training.steps

    def save_once() -> None:
        training.step(save=True)
        training.settle()

    saving = seconds(save_once)
    return 1 + (saving - (training.steps - before) * never) / EVERY_SECONDS


os.environ["TRAINYARD_SNAPSHOT_FDS"] = ",".join(str(os.memfd_create("benchmark")) for _ in range(2))
group = Group.from_environment()
device = processes.join(group)
DCP_GROUP = dist.new_group(backend="gloo")
quick = sys.argv[1] == "quick"
training = Training(group, device)
for _ in range(2):
    training.step()
step_seconds = statistics.median(seconds(training.step) for _ in range(3))

results: dict[str, Any] = {
    "step": step_seconds,
    "memory": [],
    **{method: {"stall": [], "durable": [], "restore": []} for method in METHODS},
}
for _ in range(2 if quick else 7):
    for method, (save, _restore) in METHODS.items():
        folder = group.output / method
        if group.rank == 0:
            shutil.rmtree(folder, ignore_errors=True)
        dist.barrier()
        stall, durable = save(training, folder)
        results[method]["stall"].append(stall)
        results[method]["durable"].append(durable)
if quick:
    results["ratios"] = [ratio_of_one_save(training, max(2, round(3 / step_seconds))) for _ in range(2)]
else:
    results["ratios"] = ratios(training, 2, round(2 * EVERY_SECONDS / step_seconds))
training.settle()
for _ in range(1 if quick else 3):
    for method, (_save, restore) in METHODS.items():
        forget(group.output)
        results[method]["restore"].append(seconds(lambda: restore(training, group.output / method)))  # noqa: B023
    results["memory"].append(seconds(lambda: restore_from_memory(training, group.output)))
for method in METHODS:
    folder = max(group.output.glob("checkpoints/step-*")) if method == "trainyard" else group.output / method
    results[method]["bytes"] = sum(each.stat().st_size for each in folder.rglob("*") if each.is_file())
if group.rank == 0:
    (group.output / "results.json").write_text(json.dumps(results))
dist.barrier()
os._exit(0)
