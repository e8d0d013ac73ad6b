"""Runs all trainings of `layouts` and leaves, for each step, loss and whole state: `argv[1]/<training>/<step>.safetensors`.

Modules are imported once and the ranks are forked from here, for starting as many processes costs longer than all that
they do. A model's parameters have, some of them, fewer elements than there are ranks, and most a number of them that no
world size divides.
"""

import gc
import math
import os
import socket
import sys
import traceback
from pathlib import Path

import deepspeed.runtime.zero.muon.original_muon  # noqa: F401 - the first engine would, and all of torch.compile
import peft
import torch
from engines import CURSOR
from layouts import BEGUN_FROM, GLOBAL_BATCH, ROUNDS, Training
from safetensors.torch import save_file
from torch import Tensor, nn
from training import TINY, a_job
from trainyard_api.checkpoint import Manifest
from trainyard_api.training_stages import PretrainStage
from trainyard_trainer.checkpoint.restore import load_state, load_weights
from trainyard_trainer.checkpoint.snapshot import Snapshot, lay_out
from trainyard_trainer.checkpoint.tensors import Shards, training_of
from trainyard_trainer.data.batch import IGNORED, Batch
from trainyard_trainer.engine import processes
from trainyard_trainer.engine.criterion import Criterion, Lost
from trainyard_trainer.engine.engine import Engine
from trainyard_trainer.engine.randomness import seed_streams
from trainyard_trainer.group import Group
from transformers.modeling_outputs import CausalLMOutput

SEQUENCE_LENGTH, VOCABULARY = 8, 11
GROUPS = [
    {"parameters": "embedding.*", "learningRateScale": 0.5, "weightDecay": 0.2},
    {"parameters": "*.bias", "learningRateScale": 2.0},
]
LINEAR = torch.nn.functional.linear


class Model(nn.Module):
    """The smallest that has all kinds of parameters, with the interface of transformers'."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, 5)
        self.up = nn.Linear(5, 7)
        self.gain = nn.Parameter(torch.ones(1))
        self.down = nn.Linear(7, 5, bias=False)
        self.norm = nn.LayerNorm(5)
        self.head = nn.Linear(5, VOCABULARY, bias=False)

    def get_output_embeddings(self) -> nn.Module:
        return self.head

    def forward(self, input_ids: Tensor, use_cache: bool) -> CausalLMOutput:
        x_BTC = self.embedding(input_ids)
        x_BTC = x_BTC + self.gain * self.down(torch.relu(self.up(x_BTC)))
        return CausalLMOutput(logits=self.head(self.norm(x_BTC)))


def build(kind: str) -> nn.Module:
    torch.manual_seed(7)
    model = Model()
    if kind == "frozen":
        for each in (model.embedding.weight, model.up.bias, model.gain):
            each.requires_grad_(False)
    if kind == "tied":
        model.head.weight = model.embedding.weight
    if kind == "LoRA":
        return peft.get_peft_model(model, peft.LoraConfig(r=3, lora_alpha=6, target_modules=["up", "down"]))
    return model


def share(step: int, group: Group, micro_batch: int) -> list[Batch]:
    """This rank's part of a global batch. Each row has fewer labels than the one before, so ranks have unequally many."""
    draw = torch.Generator().manual_seed(step)
    tokens_BT = torch.randint(VOCABULARY, (GLOBAL_BATCH, SEQUENCE_LENGTH + 1), generator=draw)
    chances_B = torch.arange(GLOBAL_BATCH)[:, None] / GLOBAL_BATCH
    ignored_BT = torch.rand(GLOBAL_BATCH, SEQUENCE_LENGTH, generator=draw) < chances_B
    labels_BT = tokens_BT[:, 1:].masked_fill(ignored_BT, IGNORED)
    mine = torch.arange(GLOBAL_BATCH).tensor_split(group.world_size)[group.rank]
    return [Batch({"input_ids": tokens_BT[rows, :-1]}, labels_BT[rows]) for rows in mine.split(micro_batch)]


def train(training: Training, root: Path, group: Group, device: torch.device) -> None:
    torch.nn.functional.linear = LINEAR  # an engine with ZeRO 3 replaces it, for good
    folder = group.output
    if group.rank == 0:
        folder.mkdir()
    torch.distributed.barrier()
    micro_batch = training.layout.micro_batch or GLOBAL_BATCH // group.world_size
    settings = TINY | {
        "deepspeed": training.layout.deepspeed,
        "globalBatch": GLOBAL_BATCH,
        "microBatch": micro_batch,
        "optimizer": {"learningRate": 1e-3, "groups": GROUPS if training.layout.model == "groups" else []},
    }
    stage = PretrainStage.model_validate(settings)
    accumulation = GLOBAL_BATCH // group.world_size // micro_batch
    model = build(training.layout.model)
    if training.begin:
        manifest, shards = saved(root / str(training.begin))
        load_weights(model, manifest, shards)
        engine = Engine(model, stage, accumulation, device)
        load_state(engine, manifest, shards, group)
        leave(engine, folder / f"{training.start}.safetensors", math.nan)
        leave_out(engine, training.start + 1, group)
    else:
        engine = Engine(model, stage, accumulation, device)
        seed_streams(7, 0, group.rank)
    for step in range(training.start + 1, training.last + 1):
        loss = processes.add_up(engine.gradients(share(step, group, micro_batch)))[0]
        engine.update(step, loss, 1e-3 * step)
        leave(engine, folder / f"{step}.safetensors", loss)
        if training in BEGUN_FROM and step == training.saved:
            save(engine, step, group)


def leave_out(engine: Engine, step: int, group: Group) -> None:
    """Two batches with a fault, in the loss and in the gradients: after them all must be as before."""
    whole = GLOBAL_BATCH // group.world_size
    engine.gradients(share(step + 100, group, whole))
    assert engine.update(step, math.inf, 1e-3)[1]
    sound = engine.criterion
    engine.criterion = Spoiled(sound)
    engine.gradients(share(step + 101, group, whole))
    assert engine.update(step, 1.0, 1e-3)[1]
    engine.criterion = sound


class Spoiled:
    """What a criterion gives, but no number of it is one."""

    def __init__(self, criterion: Criterion) -> None:
        self._criterion = criterion
        self.FIGURES, self.HELD_OUT_FIGURES = criterion.FIGURES, criterion.HELD_OUT_FIGURES
        self.look_ahead = criterion.look_ahead
        self.leave_out_of_compiling = criterion.leave_out_of_compiling

    def __call__(self, module: nn.Module, batch: Batch) -> Lost:
        return Lost(*(each * math.nan for each in self._criterion(module, batch)))


def save(engine: Engine, step: int, group: Group) -> None:
    """This rank's shard as `Saving` lays it out, without the writer: what storage does is another matter."""
    manifest = Manifest(
        step=step,
        attempt=group.attempt,
        time="",
        run_uid="",
        world_size=group.world_size,
        zero_stage=engine.zero_stage,
        cursor=CURSOR,
        settings_digest="",
        parameters=engine.parameter_shapes,
        shards=[],
    )
    layout = lay_out(engine, training_of(manifest))
    memory = os.memfd_create("shard")
    snapshot = Snapshot(engine, layout, [memory])
    snapshot.begin(before=lambda _: None, then=lambda _: None)
    snapshot.wait()
    (group.output / f"shard-{group.rank}").write_bytes(os.pread(memory, layout.bytes, 0))
    snapshot.close()
    if group.rank == 0:
        (group.output / "manifest.json").write_text(manifest.model_dump_json())
    torch.distributed.barrier()


def saved(folder: Path) -> tuple[Manifest, Shards]:
    manifest = Manifest.model_validate_json((folder / "manifest.json").read_bytes())
    shards = [(folder / f"shard-{rank}").read_bytes() for rank in range(manifest.world_size)]
    return manifest, Shards([memoryview(bytearray(each)) for each in shards])


def leave(engine: Engine, file: Path, loss: float) -> None:
    """Write the whole state, after a look whether the ranks' fragments together are each parameter once."""
    mine = [
        (each.name, each.start, {kind: values.float() for kind, values in each.state.items()})
        for each in engine.fragments()
    ]
    by_rank = processes.gather(mine)
    if torch.distributed.get_rank():
        return
    state: dict[str, Tensor] = {"loss": torch.tensor(loss, dtype=torch.float64)}
    for name, shape in engine.parameter_shapes.items():
        parts = sorted(
            (start, kinds)
            for rank in by_rank[: 1 if engine.replicated else None]
            for of, start, kinds in rank
            if of == name
        )
        for kind in parts[0][1]:
            ends = [start + len(kinds[kind]) for start, kinds in parts]
            assert [start for start, _ in parts] == [0, *ends[:-1]], (name, kind, parts)
            assert ends[-1] == math.prod(shape), (name, kind, ends)
            state[f"{kind}/{name}"] = torch.cat([kinds[kind] for _, kinds in parts])
    save_file(state, file)


def rank(number: int, world: int, trainings: list[Training], root: Path) -> None:
    os.environ |= {"RANK": str(number), "LOCAL_RANK": str(number)}
    job = a_job("pretrain", root / "any", TINY, {})
    device = processes.join(Group(job, 1, number, world, number, root, {}))
    for training in trainings:
        output = root / str(training)
        train(training, root, Group(job, 1, number, world, number, output, {}), device)
    processes.leave()


def fork(world: int, trainings: list[Training], root: Path) -> list[int]:
    """Exit codes of the ranks."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        os.environ |= {
            "MASTER_PORT": str(probe.getsockname()[1]),
            "WORLD_SIZE": str(world),
            "LOCAL_WORLD_SIZE": str(world),
        }
    started = []
    for number in range(world):
        process = os.fork()
        if not process:
            code = 1
            try:
                rank(number, world, trainings, root)
                code = 0
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(code)
        started.append(process)
    return [os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) for process in started]


if __name__ == "__main__":
    gc.freeze()  # what is here already never goes, and DeepSpeed collects garbage with each engine
    for trainings in ROUNDS:
        for world in sorted({each.layout.world for each in trainings}):
            codes = fork(world, [each for each in trainings if each.layout.world == world], Path(sys.argv[1]))
            if any(codes):
                sys.exit(f"world {world}: {codes}")
