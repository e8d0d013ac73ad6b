"""Measure a model on the whole held-out split: perplexity and bits per byte, beside baselines, and samples of its text.

    report.json    the figures, how they were measured, what knows less (unigram, zlib), samples

Ranks share the windows. There is no checkpoint: who was stopped starts anew.
"""

import json
import math
from datetime import UTC, datetime

from trainyard_api.protocol import Artifact
from trainyard_api.stages import EvaluateStage
from trainyard_api.status import Progress
from trainyard_api.storage import Files

from ..artifacts import write_artifact
from ..checkpoint.trained import TrainedModel, load_trained, same_tokenizer
from ..data.shards import TokenShards
from ..data.tokenizer import token_bytes
from ..engine import processes
from ..engine.preflight import preflight
from ..errors import PermanentError
from ..evaluation.baselines import unigram_bits_per_byte, zlib_bits_per_byte
from ..evaluation.perplexity import SlidingWindows, losses
from ..evaluation.samples import write_samples
from ..group import Group
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
    held_out = TokenShards(data / "held-out")
    windows = SlidingWindows(held_out, stage.sequence_length, trained.end_of_text)

    mine = range(group.rank, len(windows), group.world_size)
    pulse = Pulse(group)
    nats, tokens, done = 0.0, 0, 0
    for batch_nats, batch_tokens in losses(trained.model, windows, mine, stage.micro_batch, device):
        nats, tokens, done = nats + batch_nats, tokens + batch_tokens, done + stage.micro_batch
        pulse.step(done)
        _report(group, min(done, len(mine)), len(mine), "held-out text")
    pulse.beat("waiting")
    total_nats, total_tokens = processes.add_up(nats, tokens)
    processes.leave()
    if group.rank:
        return None

    _report(group, len(mine), len(mine), "baselines and samples")
    metrics = {
        "perplexity": math.exp(total_nats / total_tokens),
        "bits_per_byte": total_nats / math.log(2) / held_out.num_bytes,
        "tokens": total_tokens,
        "bytes": float(held_out.num_bytes),
        "unigram_bits_per_byte": unigram_bits_per_byte(
            TokenShards(data / "train"), held_out, trained.model.config.vocab_size
        ),
        "zlib_bits_per_byte": zlib_bits_per_byte(held_out, token_bytes(data / "tokenizer")),
    }
    method = {
        "windows": "sliding",
        "length": windows.length,
        "stride": windows.stride,
        "documents": held_out.num_documents,
    }
    samples = write_samples(trained, stage.samples, group.job.seed) if stage.samples else []
    report = {**metrics, "method": method, "samples": samples}
    Files(group.output).write("report.json", json.dumps(report, indent=1, ensure_ascii=False).encode())
    return write_artifact(group, metrics=metrics, files=["report.json"], details={"report": "report.json"})


def _refuse_mismatch(stage: EvaluateStage, trained: TrainedModel, group: Group) -> None:
    if stage.sequence_length > trained.sequence_length:
        raise PermanentError(
            f"evaluate.sequenceLength: {stage.sequence_length} is longer than the {trained.sequence_length} tokens that the "
            f"model was trained with; use {trained.sequence_length} or less"
        )
    if not same_tokenizer(trained.tokenizer, group.inputs["data"] / "tokenizer"):
        raise PermanentError(
            "evaluate.data: has other tokens than the model was trained on; name the data of its pretrain"
        )


def _report(group: Group, step: int, steps: int, message: str) -> None:
    if group.rank == 0:
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        group.report(progress=Progress(step=step, steps=steps, message=message, heartbeat_time=now))
