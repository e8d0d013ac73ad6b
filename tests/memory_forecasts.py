"""What a training takes of memory, as planned and as measured, of models large enough that they outweigh all else."""

import re
from pathlib import Path
from typing import Any

from training import Ranks, a_job
from trainyard_api.architecture import architecture
from trainyard_api.memory import layout_of, memory_of_a_rank
from trainyard_api.training_stages import PretrainStage

MEASURED = Path(__file__).parent / "local/training/measured_memory.py"
LLAMA: dict[str, Any] = {
    "type": "llama",
    "config": {"hidden_size": 512, "intermediate_size": 1408, "num_hidden_layers": 6, "num_attention_heads": 8},
}
VOCABULARY = 300
"""Of `training.a_corpus`."""


def stage(zero: int, ranks: int, micro_batch: int, *, bf16: bool = False, **settings: Any) -> dict[str, Any]:
    """Three steps of 19 M parameters."""
    return {
        "data": "corpus",
        "model": LLAMA,
        "steps": 3,
        "sequenceLength": 256,
        "microBatch": micro_batch,
        "globalBatch": micro_batch * ranks,
        "validation": {"everySteps": 3, "sequences": 1},
        "checkpoint": {"everySteps": 2},
        "deepspeed": {"zero_optimization": {"stage": zero}, **({"bf16": {"enabled": True}} if bf16 else {})},
        **settings,
    }


def forecast(settings: dict[str, Any], ranks: int) -> int:
    """Bytes of a rank."""
    given = PretrainStage.model_validate(settings)
    assert given.model.type
    model = architecture(given.model.type, {**(given.model.config or {}), "vocab_size": VOCABULARY})
    assert model
    return memory_of_a_rank(model, layout_of(given, ranks, on_gpu=False)).device


def measured(settings: dict[str, Any], ranks: int, corpus: Path, output: Path) -> int:
    """Bytes of rank 0, which holds most."""
    job = a_job("pretrain", output, settings, {"data": corpus})
    group = Ranks(job, ranks, script=(str(MEASURED),))
    group.succeed()
    [peak] = re.findall(r"^peak: (\d+)$", (output / "rank-0.1.log").read_text(), re.MULTILINE)
    return int(peak)
