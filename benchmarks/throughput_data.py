"""What `benchmarks.throughput` trains on: documents of mixed length, as a prepare stage leaves them, and the models.

Lengths are log-normal, as those of web pages are, around a quarter of a sequence, and no longer than a sequence, so that
nobody has to cut one. What the tokens are doesn't matter to speed; they are drawn with Zipf's frequencies.
"""

import json
from pathlib import Path

import numpy as np
from pydantic import BaseModel
from tokenizers import Tokenizer, models
from training import a_job
from trainyard_api.architecture import architecture
from trainyard_api.protocol import Job
from trainyard_trainer.data.shards import ShardWriter, token_dtype

END_OF_TEXT = 0


class Shape(BaseModel):
    """A model, and a step."""

    vocabulary: int
    config: dict[str, int | bool]
    sequence_length: int
    global_batch: int
    micro_batch: int
    documents: int
    deepspeed: dict[str, object] = {}

    @property
    def flops_a_token(self) -> int:
        """As `trainyard plan` counts them."""
        model = architecture("llama", {**self.config, "vocab_size": self.vocabulary})
        assert model
        return model.flops_per_token(self.sequence_length)


CPU = Shape(
    vocabulary=32_000,
    config={
        "hidden_size": 384,
        "intermediate_size": 1024,
        "num_hidden_layers": 10,
        "num_attention_heads": 6,
        "tie_word_embeddings": True,
    },
    sequence_length=256,
    global_batch=8,
    micro_batch=4,
    documents=4_000,
)
"""12.3 M parameters in the embedding, which is the head as well, and 17.7 M in layers."""

GPU = Shape(
    vocabulary=32_000,
    config={
        "hidden_size": 2048,
        "intermediate_size": 5632,
        "num_hidden_layers": 18,
        "num_attention_heads": 16,
        "tie_word_embeddings": True,
    },
    sequence_length=4096,
    global_batch=16,
    micro_batch=4,
    documents=40_000,
    deepspeed={"zero_optimization": {"stage": 1}, "bf16": {"enabled": True}},
)
"""65 M parameters in the embedding and 925 M in layers."""


def documents(shape: Shape) -> list[np.ndarray]:
    """The same ones each time, each with an end-of-text token at its end."""
    draw = np.random.default_rng(0)
    lengths = draw.lognormal(np.log(shape.sequence_length / 4), 1.0, shape.documents).astype(int)
    return [
        np.append((draw.zipf(1.2, length - 1) % (shape.vocabulary - 1)) + 1, END_OF_TEXT)
        for length in np.clip(lengths, 8, shape.sequence_length)
    ]


def write_corpus(shape: Shape, folder: Path) -> None:
    """The folder of a prepare stage that has made these documents."""
    (folder / "tokenizer").mkdir(parents=True)
    tokenizer = Tokenizer(models.WordLevel({f"<{number}>": number for number in range(shape.vocabulary)}, "<1>"))
    tokenizer.save(str(folder / "tokenizer/tokenizer.json"))
    (folder / "tokenizer/tokenizer_config.json").write_text(json.dumps({"eos_token": f"<{END_OF_TEXT}>"}))
    made = documents(shape)
    for split, part in (("train", made), ("held-out", made[:64])):
        with ShardWriter(folder / split, token_dtype(shape.vocabulary), 1 << 26) as writer:
            for document in part:
                writer.write(document.tolist(), len(document))
    details = {"vocab_size": shape.vocabulary, "eot_id": END_OF_TEXT}
    (folder / "artifact.json").write_text(json.dumps({"kind": "prepare", "details": details}))


def a_job_to_train(shape: Shape, scratch: Path, name: str) -> Job:
    """A pretrain stage that goes on for as long as it is let."""
    settings = {
        "data": "corpus",
        "model": {"type": "llama", "config": shape.config},
        "steps": 1_000_000,
        "sequenceLength": shape.sequence_length,
        "globalBatch": shape.global_batch,
        "microBatch": shape.micro_batch,
        "validation": {"everySteps": 1_000_000},
        "checkpoint": {"everySteps": 1_000_000},
        "deepspeed": shape.deepspeed,
    }
    (scratch / name).mkdir(exist_ok=True)
    return a_job("pretrain", scratch / name, settings, {"data": scratch / "corpus"})
