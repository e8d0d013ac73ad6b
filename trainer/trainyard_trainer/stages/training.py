"""What all stages do that train: cross-entropy over packed documents, AdamW, warm-up and cosine, in bounded loss of work.
What differs is in their settings, and in the objective that follows from them.

The state after step N is a function of (settings, inputs, seed, N, world size) and of nothing else: data order, schedule
and first weights (where they aren't an earlier stage's) are computed, the rest is in the checkpoint. So a run killed at any
moment ends with the same weights, to the bit, as one that never was. Numbers that go wrong (`engine.numerics`) are part of it.
"""

import hashlib
import json
import math
import shutil
from collections.abc import Sequence
from contextlib import suppress
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from trainyard_api.checkpoint import MANIFEST, Cursor, CursorPart, Manifest, committed
from trainyard_api.objectives import TrainedOn
from trainyard_api.protocol import Artifact
from trainyard_api.rollout_stages import RolloutStage
from trainyard_api.storage import Files, Storage
from trainyard_api.training_stages import RewardStage, TrainingStage
from transformers import PreTrainedModel

from .. import stopping
from ..artifacts import ARTIFACT, write_artifact
from ..checkpoint.memory import Found, Neighbourhood, newest
from ..checkpoint.restore import load_state, load_weights, refuse_other_training
from ..checkpoint.saving import Saving
from ..checkpoint.store import Checkpoints
from ..checkpoint.trained import same_tokenizer
from ..data.ahead import Ahead
from ..data.objectives.choose import objective_of
from ..data.objectives.objective import Objective, Rows
from ..engine import processes
from ..engine.batches import Batches, HeldOut
from ..engine.compiling import tell_of_compiling
from ..engine.engine import Engine
from ..engine.numerics import Fault
from ..engine.preflight import preflight
from ..engine.randomness import seed_streams
from ..engine.schedule import learning_rate
from ..engine.sequence_parallel import share_sequences
from ..errors import PermanentError, RolledBackError, StopRequested, setting
from ..group import Group
from ..models.build import build_model
from ..models.origin import Origin, origin
from ..preferences.objective import PreferenceLoss
from ..preferences.reference import compare_with_reference
from ..pulse import Pulse
from ..reinforcement.apart import Apart
from ..scratch import Known
from ..telemetry.profile import Profile
from .judging import JudgedRewards, judge_rewards
from .kinds import as_trained, criterion_of
from .progress import TrainingProgress
from .rewarding import Rewarding, more_updates

_NAMED = 16
"""Samples of a part, and runs of sequences, that a message names."""


def train(stage: TrainingStage, group: Group, apart: Apart | None = None) -> Artifact | None:
    """Train to the last step, resuming from the newest good checkpoint. The artifact is rank 0's. `apart` are those that draw,
    where others do than those that learn.
    """
    device = processes.join(group)
    if apart:
        apart.connect()
    preflight(group, device)
    artifact = train_connected(stage, group, device, apart)
    if apart:
        apart.done()
    processes.leave()
    return artifact


def train_connected(
    stage: TrainingStage, group: Group, device: torch.device, apart: Apart | None = None
) -> Artifact | None:
    """The whole stage, for ranks that are connected."""
    corpora = {field: group.inputs[field] for field in stage.parts}
    measured = corpora | {field: group.inputs[field] for field in stage.validation_sets}
    refuse_mixed_tokenizers(stage, measured)
    first_corpus = next(iter(corpora.values()))
    pulse = Pulse(group)
    begun = origin(stage, first_corpus, group, lambda _: pulse.beat("fetching"))
    rewarding = None
    if isinstance(stage, RolloutStage):
        tokenizer = first_corpus / "tokenizer"
        rewarding = Rewarding(stage, begun, tokenizer, group, device, lambda _: pulse.beat("fetching"), apart)
    objective: Objective = (
        rewarding.objective
        if rewarding
        else objective_of(begun.objective, begun.config, begun.tokens, stage.sequence_length, group.job.seed)
    )
    rows = {field: objective.open(corpus / "train") for field, corpus in corpora.items()}
    batches = Batches(rows, objective, stage, group)
    held_out_rows = {field: objective.open(corpus / "held-out") for field, corpus in measured.items()}
    held_out = HeldOut(held_out_rows, objective, stage, group)
    cursor = _cursor(stage, corpora, begun.objective, group.job.seed)
    checkpoints = Checkpoints(group)
    pulse.beat("restoring")
    found = newest(checkpoints, Neighbourhood(group))
    accumulation, reward_model = batches.accumulation // stage.mini_batches, rewarding and rewarding.reward_model
    engine = _begin(stage, begun, accumulation, found, cursor, group, device, reward_model)
    if stage.compile:
        tell_of_compiling(pulse)
        engine.compile()
    start, kept = (found.manifest.step, found.kept) if found else (0, None)
    if isinstance(engine.criterion, PreferenceLoss):
        pulse.beat("working")
        splits: dict[str, Any] = {f"{field} train": each for field, each in rows.items()}
        splits |= {f"{field} held-out": each for field, each in held_out_rows.items()}
        compare_with_reference(
            splits, objective, engine, engine.criterion, cursor, group, stage.micro_batch, pulse.beat, begins=not found
        )
    engine.numerics.overrule(checkpoints.rolled_back, start)
    checkpoints.begin(start)
    progress = TrainingProgress(stage, begun.config, device, group, pulse)
    progress.resumed(found, engine.numerics.skipped)
    profile = Profile(stage.profile, group)
    carried = {name: each.clone() for name, each in found.shards.carried().items()} if found else {}
    del found  # and the memory of what was read

    ahead = Ahead(batches.micro_batches)
    learning = rewarding.begin(engine, batches, held_out, carried) if rewarding else None
    held_out_losses = None
    with Saving(checkpoints, stage.checkpoint, engine, cursor, progress.saving, kept=kept) as saving:
        done = start
        while done < stage.steps:
            progress.start_clock()
            engine.times.begin()
            profile.before(done + 1)
            step = done + 1
            batch, rate = engine.numerics.batch(step), learning_rate(step, stage)
            last = step == stage.steps
            updates = learning.updates(batch, last=last) if learning else iter([ahead.micro_batches(batch, last=last)])
            my_loss = engine.gradients(next(updates))
            with engine.times.of("checkpoint"):
                saving.before_update()
            with engine.times.of("wait"):
                mine = batches.by_part(batch, engine.row_losses)
                loss, stop, *rest = processes.add_up(my_loss, group.stopping(), *mine, *engine.figures, *saving.votes())
            of_parts, rest = rest[: len(mine)], rest[len(mine) :]
            of_batch, votes = rest[: len(engine.figures)], rest[len(engine.figures) :]
            if learning and learning.gate.refuses(engine.means(of_batch, engine.num_labels)["mismatch"]):
                engine.drop()
                continue
            grad_norm, fault = engine.update(step, loss, rate)
            if fault:
                _leave_out(fault, batch, batches, progress, engine, checkpoints)
                continue
            shown = more_updates(engine, updates, of_batch, engine.num_labels)
            figures = engine.means(*shown)
            if learning:
                figures = learning.made(figures)
            done = step
            stopping.hold_back()
            progress.step(
                step,
                batches.positions(batch),
                loss=loss,
                figures=batches.part_losses(of_parts) | figures,
                learning_rate=rate,
                grad_norm=grad_norm,
                times=engine.times.read(),
            )
            profile.after(step)

            if not (stop or last):
                saving.after_step(step, *votes)
            if not stop and (last or step % stage.validation.every_steps == 0):
                held_out_losses = held_out.losses(engine, progress.alive)
                if held_out_losses is None:
                    stop = True
                else:
                    progress.held_out(step, held_out_losses)
                    if learning:
                        progress.samples(step, **learning.samples())
                    saving.validated(step, held_out_losses["held_out_loss"])
            if stop or last:
                pulse.beat("saving")
                saving.commit(step)
            if stop:
                with suppress(OSError):  # what counts is saved
                    progress.close()
                raise StopRequested(f"checkpoint of step {step} is committed")
    stopping.let_go()

    if held_out_losses is None:  # an attempt before this one did the last step
        held_out_losses = held_out.losses(engine, progress.alive)
        if held_out_losses is None:
            raise StopRequested(stopping.NOTHING_TO_SAVE)
        progress.held_out(stage.steps, held_out_losses)
    progress.close()
    judged = None
    if isinstance(stage, RewardStage):
        judged = judge_rewards(stage, engine, objective, rows, held_out_rows, group, pulse.beat)
    if group.rank:
        return None
    return _finish(stage, begun, engine, held_out_losses, judged, corpora, rows, checkpoints)


def refuse_mixed_tokenizers(stage: TrainingStage, corpora: dict[str, Path]) -> None:
    """All parts of a mixture, and all validation sets, have the first one's tokens."""
    first, *others = corpora
    names = {field: part.data for field, part in stage.parts.items()} | stage.validation_sets
    differ = [
        field for field in others if not same_tokenizer(corpora[first] / "tokenizer", corpora[field] / "tokenizer")
    ]
    if differ:
        listed = ", ".join(f"{names[field]} ({field})" for field in differ)
        raise PermanentError(
            f"{setting(differ[0].partition('[')[0])}: {listed} {'have' if differ[1:] else 'has'} other tokens than "
            f"{names[first]} ({first}); set prepare.tokenizer.stage: {names[first]} there"
        )


def _cursor(stage: TrainingStage, corpora: dict[str, Path], objective: TrainedOn, seed: int) -> Cursor:
    return Cursor(
        seed=seed,
        global_batch=stage.global_batch,
        sequence_length=stage.sequence_length,
        objective=objective,
        parts=[
            CursorPart(digest=hashlib.sha256((corpora[field] / ARTIFACT).read_bytes()).hexdigest(), weight=part.weight)
            for field, part in stage.parts.items()
        ],
    )


def _begin(
    stage: TrainingStage,
    begun: Origin,
    accumulation: int,
    found: Found | None,
    cursor: Cursor,
    group: Group,
    device: torch.device,
    reward_model: PreTrainedModel | None,
) -> Engine:
    """The engine as it was when what was found was saved, or new."""
    if found:
        refuse_other_training(found.manifest, cursor, stage)
    model = build_model(begun.config, group.job.seed) if found else begun.first()
    model = as_trained(model, stage, group.job.seed, device, reward_model)
    if found:
        with found.timed():
            load_weights(model, found.manifest, found.shards)
    if stage.sequence_parallel > 1:
        share_sequences(model, stage)
    engine = Engine(model, stage, accumulation, device, criterion_of(model, stage))
    if found:
        with found.timed():
            load_state(engine, found.manifest, found.shards, group)
    else:
        seed_streams(group.job.seed, 0, group.rank // engine.sharers)
    return engine


def _finish(
    stage: TrainingStage,
    begun: Origin,
    engine: Engine,
    held_out_losses: dict[str, float],
    judged: JudgedRewards | None,
    corpora: dict[str, Path],
    rows: dict[str, Rows],
    checkpoints: Checkpoints,
) -> Artifact:
    """The artifact: the last checkpoint, and what is needed to use it."""
    group = checkpoints.group
    shutil.copytree(next(iter(corpora.values())) / "tokenizer", group.output / "tokenizer", dirs_exist_ok=True)
    checkpoint = f"checkpoints/{committed(checkpoints.storage)[-1]}"
    if judged:
        Files(group.output).write("report.json", json.dumps(judged.report, indent=1).encode())
    return write_artifact(
        group,
        metrics={
            **held_out_losses,
            **(judged.metrics if judged else {}),
            "steps": stage.steps,
            **({"skipped_batches": skipped} if (skipped := engine.numerics.skipped) else {}),
            "tokens": stage.steps * stage.tokens_a_step,
            "parameters": sum(map(math.prod, engine.parameter_shapes.values())),
            "real_positions": min(each.real for each in rows.values()),
            **({"documents_too_long": too_long} if (too_long := sum(each.too_long for each in rows.values())) else {}),
        },
        files=["tokenizer", *(["report.json"] if judged else [])],
        stored=_files(group.storage, checkpoint),
        details={
            "checkpoint": checkpoint,
            "model": begun.config.to_dict(),
            "tokenizer": "tokenizer",
            "addedTokens": begun.added,
            "objective": begun.objective,
            **({"lora": stage.model.lora.wire()} if stage.model.lora else {}),
            **({"scores": {"heads": len(judged.means), "means": judged.means}} if judged else {}),
            "packing": {
                stage.parts[field].data: {
                    "rows": len(each),
                    "real": each.real,
                    "documentsCut": each.documents_cut,
                    "documentsTooLong": each.too_long,
                }
                for field, each in rows.items()
            },
        },
    )


def _files(storage: Storage, checkpoint: str) -> list[Known]:
    """The files of a checkpoint, with the digests under which they were written."""
    manifest = storage.read(f"{checkpoint}/{MANIFEST}")
    shards = Manifest.model_validate_json(manifest).shards
    return [
        Known(f"{checkpoint}/{MANIFEST}", len(manifest), hashlib.sha256(manifest).hexdigest()),
        *(Known(f"{checkpoint}/{shard.file}", shard.bytes, shard.sha256) for shard in shards),
    ]


def _leave_out(
    fault: Fault, batch: int, batches: Batches, progress: TrainingProgress, engine: Engine, checkpoints: Checkpoints
) -> None:
    """Go on without a global batch, or from an older checkpoint, or not at all. A collective: ranks tell whose the fault is."""
    known = batches.stage.mini_batches == 1  # else micro-batches were dealt out
    mine = [n for n, loss in enumerate(engine.losses) if known and not math.isfinite(loss)]
    at_fault = processes.gather([position for n in mine for position in batches.positions_of(batch, n)])
    positions = sorted({*chain(*at_fault)}) or batches.positions(batch)  # gradients tell of no sample, nor do spikes
    samples, where = batches.samples(positions), f"sequences {_runs(positions)}"
    progress.fault(fault, batches.positions(batch), where, samples)
    if fault.action == "Skip":
        return
    with suppress(OSError):
        progress.close()
    if fault.action == "RollBack":
        numerics = engine.numerics
        to_step = max(0, fault.step - 1 - numerics.settings.roll_back_steps)
        checkpoints.roll_back(to_step, batch, numerics.skipped, numerics.faults)
        raise RolledBackError(
            f"step {fault.step}, {where}: {fault.what}; back to step {to_step} or before, and on after batch {batch}"
        )
    named = "; ".join(f"{part}: {', '.join(map(str, each[:_NAMED]))}" for part, each in samples.items())
    more = f", … ({len(positions)} in metrics.jsonl)" if len(positions) > _NAMED else ""
    raise PermanentError(
        f"{setting('numerics')}: training diverged at step {fault.step}: {fault.what}; samples {named}{more}; lower "
        "optimizer.learningRate, lengthen schedule.warmupSteps, set optimizer.clipNorm, or look into these samples"
    )


def _runs(positions: Sequence[int]) -> str:
    """`40–41, 44`: ascending positions, those that follow one another as one."""
    known = set(positions)
    firsts, lasts = ([each for each in positions if each + by not in known] for by in (-1, 1))
    runs = [str(first) if first == last else f"{first}–{last}" for first, last in zip(firsts, lasts, strict=True)]
    return ", ".join(runs[:_NAMED]) + (", …" if runs[_NAMED:] else "")
