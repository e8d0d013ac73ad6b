"""Measure a model on the whole held-out split: of a decoder perplexity and bits per byte, beside baselines, and samples of its
text; of a reward model how good its scores are; of other models the loss of their objective.

    report.json    the figures, how they were measured, what knows less (unigram, zlib), samples

Ranks share the rows. There is no checkpoint: who was stopped starts anew.
"""

import json
import math
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from trainyard_api.objectives import CONVERSING
from trainyard_api.protocol import Artifact
from trainyard_api.stages import EvaluateStage
from trainyard_api.status import Progress
from trainyard_api.storage import Files

from ..artifacts import write_artifact
from ..checkpoint.trained import TrainedModel, load_trained, same_tokenizer
from ..data.objectives.rewards import Rewards
from ..data.shards import TokenShards
from ..data.special_tokens import special_tokens
from ..data.tokenizer import token_bytes
from ..engine import processes
from ..engine.preflight import preflight
from ..errors import PermanentError
from ..evaluation.baselines import unigram_bits_per_byte, zlib_bits_per_byte
from ..evaluation.of_objective import NAMES, RowsOfObjective
from ..evaluation.perplexity import Measured, SlidingWindows, losses
from ..evaluation.samples import write_samples
from ..group import Group
from ..preferences.judging import judge, report
from ..preferences.reward import scores
from ..pulse import Pulse


def evaluate(group: Group) -> Artifact | None:
    """Write report.json; the artifact is rank 0's."""
    stage = group.settings(EvaluateStage)
    device = processes.join(group)
    preflight(group, device)
    trained = load_trained(group.inputs["model"])
    trained.model.to(device)
    data = group.inputs["data"]
    _refuse_mismatch(stage, trained, group)
    held_out = data / "held-out"
    if trained.objective == "Rewards":
        return _judge(stage, trained, held_out, group, device)
    rows: Measured
    if trained.objective == "NextToken":
        begin = special_tokens(trained.tokenizer).begin
        rows = SlidingWindows(TokenShards(held_out), stage.sequence_length, begin)
    else:
        rows = RowsOfObjective(trained, held_out, stage.sequence_length, group.job.seed)

    mine = range(group.rank, len(rows), group.world_size)
    pulse = Pulse(group)
    nats, labels, done = 0.0, 0, 0
    for batch_nats, batch_labels in losses(trained.model, rows, mine, stage.micro_batch, device):
        nats, labels, done = nats + batch_nats, labels + batch_labels, done + stage.micro_batch
        pulse.step(done)
        _report(group, min(done, len(mine)), len(mine), "held-out text")
    pulse.beat("waiting")
    total_nats, total_labels = processes.add_up(nats, labels)
    processes.leave()
    if group.rank:
        return None

    if isinstance(rows, SlidingWindows):
        _report(group, len(mine), len(mine), "baselines and samples")
        metrics = _of_decoder(total_nats, total_labels, data, trained.model.config.vocab_size)
        method: dict[str, Any] = {"windows": "sliding", "length": rows.length, "stride": rows.stride}
    else:
        metrics = {NAMES[trained.objective]: total_nats / max(1, total_labels), "labels": total_labels}
        method = {"objective": trained.objective, "length": stage.sequence_length}
    method["documents"] = TokenShards(held_out).num_documents
    samples = write_samples(trained, stage.samples, group.job.seed) if stage.samples else []
    return _write(group, metrics, {**metrics, "method": method, "samples": samples})


def _judge(
    stage: EvaluateStage, trained: TrainedModel, held_out: Path, group: Group, device: torch.device
) -> Artifact | None:
    """Of a reward model, how good its scores of pairs are."""
    tokens = special_tokens(trained.tokenizer)
    objective = Rewards(stage.sequence_length, tokens.begin)
    rows = objective.open(held_out)
    share = math.ceil(len(rows) / group.world_size)
    pulse = Pulse(group)

    def tell(done: int) -> None:
        pulse.step(done)
        _report(group, min(done, share), share, "held-out pairs")

    with torch.no_grad():
        judged = judge(
            lambda batch: scores(trained.model, batch.to(device)),
            objective,
            rows,
            range(len(rows)),
            group,
            stage.micro_batch,
            tell,
        )
    processes.leave()
    if group.rank:
        return None
    metrics, tables = report(judged)
    method = {"objective": trained.objective, "length": stage.sequence_length, "pairs_too_long": rows.too_long}
    return _write(group, metrics, {**metrics, **tables, "method": method})


def _write(group: Group, metrics: dict[str, float], report: dict[str, Any]) -> Artifact:
    Files(group.output).write("report.json", json.dumps(report, indent=1, ensure_ascii=False).encode())
    return write_artifact(group, metrics=metrics, files=["report.json"], details={"report": "report.json"})


def _of_decoder(nats: float, tokens: float, data: Path, vocab_size: int) -> dict[str, float]:
    """Perplexity and bits per byte, beside the baselines that the data allows."""
    held_out = TokenShards(data / "held-out")
    metrics = {
        "perplexity": math.exp(nats / tokens),
        "bits_per_byte": nats / math.log(2) / held_out.num_bytes,
        "tokens": tokens,
        "bytes": float(held_out.num_bytes),
        "unigram_bits_per_byte": unigram_bits_per_byte(TokenShards(data / "train"), held_out, vocab_size),
    }
    if table := token_bytes(data / "tokenizer"):
        metrics["zlib_bits_per_byte"] = zlib_bits_per_byte(held_out, table)
    return metrics


def _refuse_mismatch(stage: EvaluateStage, trained: TrainedModel, group: Group) -> None:
    if stage.sequence_length > trained.sequence_length:
        raise PermanentError(
            f"evaluate.sequenceLength: {stage.sequence_length} is longer than the {trained.sequence_length} tokens that the "
            f"model was trained with; use {trained.sequence_length} or less"
        )
    if stage.samples and trained.objective not in ("NextToken", *CONVERSING):
        raise PermanentError(
            f"evaluate.samples: a {trained.model.config.model_type} trained on {trained.objective} continues no text, only "
            "decoders do that were not made to score; leave it out"
        )
    if not same_tokenizer(trained.tokenizer, group.inputs["data"] / "tokenizer"):
        raise PermanentError(
            "evaluate.data: has other tokens than the model was trained on; name data that was prepared with its tokenizer"
        )


def _report(group: Group, step: int, steps: int, message: str) -> None:
    if group.rank == 0:
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        group.report(progress=Progress(step=step, steps=steps, message=message, heartbeat_time=now))
