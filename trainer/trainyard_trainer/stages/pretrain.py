"""Pretrain a decoder: next-token cross-entropy over packed text, AdamW, warm-up and cosine, in bounded loss of work.

The state after step N is a function of (settings, seed, N, world size) and of nothing else: data order, schedule and
first weights are computed, the rest is in the checkpoint. So a run killed at any moment ends with the same weights, to
the bit, as one that never was.
"""

import hashlib
import math
import shutil

from trainyard_api.protocol import Artifact
from trainyard_api.stages import PretrainStage

from ..artifacts import ARTIFACT, read_artifact, write_artifact
from ..checkpoint.manifest import Cursor
from ..checkpoint.restore import load_state, load_weights, refuse_other_cursor
from ..checkpoint.store import Checkpoints, folder_name
from ..data.shards import TokenShards
from ..engine import processes
from ..engine.batches import Batches, HeldOut
from ..engine.engine import Engine
from ..engine.randomness import seed_streams
from ..engine.schedule import learning_rate
from ..errors import PermanentError, StopRequested
from ..group import Group
from ..models.build import build_model, model_config
from .progress import TrainingProgress


def pretrain(group: Group) -> Artifact | None:
    """Train to the last step, resuming from the newest good checkpoint. The artifact is rank 0's."""
    stage = group.settings(PretrainStage)
    device = processes.join(group)

    data = group.inputs["data"]
    prepared = read_artifact(data, "prepare")["details"]
    batches = Batches(TokenShards(data / "train"), stage, group)
    held_out = HeldOut(TokenShards(data / "held-out"), stage, group)

    config = model_config(
        stage.model,
        vocab_size=prepared["vocab_size"],
        end_of_text=prepared["eot_id"],
        sequence_length=stage.sequence_length,
    )
    model = build_model(config, group.job.seed)
    checkpoints = Checkpoints(group, stage.checkpoint.keep)
    newest = checkpoints.newest()
    start = 0
    if newest:
        refuse_other_cursor(newest[0], _cursor(newest[0].step, stage, group))
        load_weights(model, *newest)
        start = newest[0].step
    engine = Engine(model, stage, batches.accumulation, device)
    if newest:
        load_state(engine, *newest, group)
    else:
        seed_streams(group.job.seed, 0, group.rank)
    progress = TrainingProgress(stage, group)
    if group.rank == 0:
        group.report(resumed_step=start)

    for step in range(start + 1, stage.steps + 1):
        progress.start_clock()
        rate = learning_rate(step, stage)
        my_loss, grad_norm = engine.train_step(batches.micro_batches(step), rate)
        losses, stopping = processes.add_up(my_loss, group.stopping())
        loss = losses / (group.world_size * batches.accumulation)
        _refuse_divergence(step, loss, grad_norm)
        progress.step(step, loss=loss, learning_rate=rate, grad_norm=grad_norm)

        last = step == stage.steps
        if step % stage.checkpoint.every_steps == 0 or stopping or last:
            saved = checkpoints.save(step, engine, _cursor(step, stage, group))
            progress.saved(saved)
        if stopping and not last:
            raise StopRequested(f"checkpoint of step {step} is committed")
        if step % stage.validation.every_steps == 0 and not last:
            progress.held_out(step, held_out.loss(engine))

    final_loss = held_out.loss(engine)
    progress.held_out(stage.steps, final_loss)
    processes.leave()
    if group.rank:
        return None
    shutil.copytree(data / "tokenizer", group.output / "tokenizer", dirs_exist_ok=True)
    checkpoint = f"checkpoints/{folder_name(stage.steps)}"
    return write_artifact(
        group,
        metrics={
            "held_out_loss": final_loss,
            "steps": stage.steps,
            "tokens": stage.steps * stage.global_batch * stage.sequence_length,
            "parameters": sum(map(math.prod, engine.parameter_shapes.values())),
        },
        files=[checkpoint, "tokenizer"],
        details={"checkpoint": checkpoint, "model": config.to_dict(), "tokenizer": "tokenizer"},
    )


def _cursor(step: int, stage: PretrainStage, group: Group) -> Cursor:
    return Cursor(
        step=step,
        seed=group.job.seed,
        global_batch=stage.global_batch,
        sequence_length=stage.sequence_length,
        data_digest=hashlib.sha256((group.inputs["data"] / ARTIFACT).read_bytes()).hexdigest(),
    )


def _refuse_divergence(step: int, loss: float, grad_norm: float) -> None:
    """DeepSpeed says -1 for a norm that isn't finite."""
    if not math.isfinite(loss) or not math.isfinite(grad_norm) or grad_norm < 0:
        raise PermanentError(
            f"pretrain: training diverged at step {step}: loss {loss}, gradient norm {grad_norm}; lower "
            "optimizer.learningRate, lengthen schedule.warmupSteps or set optimizer.clipNorm"
        )
