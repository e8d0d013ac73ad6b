"""What `benchmarks.preferences` trains on: conversations, and pairs of responses, as a prepare stage leaves them.

Prompts and responses have log-normal lengths, as those that people write, cut so that every one fits. What the tokens are
doesn't matter to speed; they are drawn with Zipf's frequencies.
"""

import json
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tokenizers import Tokenizer, models
from training import a_job
from trainyard_api.protocol import Job
from trainyard_trainer.data.objectives.preferences import Preferences
from trainyard_trainer.data.objectives.responses import Responses
from trainyard_trainer.data.shards import REJECTED, RESPONSES, ShardWriter, token_dtype

VOCABULARY = 32_000
CONFIG = {
    "hidden_size": 384,
    "intermediate_size": 1024,
    "num_hidden_layers": 10,
    "num_attention_heads": 6,
    "tie_word_embeddings": True,
}
"""12.3 M parameters in the embedding, which is the head as well, and 17.7 M in layers."""
END = 0
ROWS, MICRO_BATCH = 4, 2
"""Of a step, and of a forward pass."""
LENGTH = {"sft": 256, "dpo": 512}
"""Positions of a row: a conversation has at most 256, a pair of them twice as many."""


class Pair(NamedTuple):
    """A prompt with two responses, as tokens."""

    prompt: list[int]
    chosen: list[int]
    rejected: list[int]


def pairs(number: int = 400) -> list[Pair]:
    """The same ones each time; a response ends with the end of text."""
    draw = np.random.default_rng(0)

    def text(median: int, most: int) -> list[int]:
        length = int(np.clip(draw.lognormal(np.log(median), 0.8), 4, most))
        return ((draw.zipf(1.2, length) % (VOCABULARY - 1)) + 1).tolist()

    return [Pair(text(30, 100), [*text(50, 150), END], [*text(50, 150), END]) for _ in range(number)]


def write_data(scratch: Path) -> None:
    """The folder of a prepare stage that has made these pairs, whose chosen responses are conversations."""
    made = pairs()
    folder = scratch / "data"
    (folder / "tokenizer").mkdir(parents=True)
    tokenizer = Tokenizer(models.WordLevel({f"<{number}>": number for number in range(VOCABULARY)}, "<1>"))
    tokenizer.save(str(folder / "tokenizer/tokenizer.json"))
    (folder / "tokenizer/tokenizer_config.json").write_text(json.dumps({"eos_token": f"<{END}>"}))
    for split, part in (("train", made), ("held-out", made[:16])):
        for below, side in ((folder / split, "chosen"), (folder / split / REJECTED, "rejected")):
            with (
                ShardWriter(below, token_dtype(VOCABULARY), 1 << 26) as tokens,
                ShardWriter(below / RESPONSES, np.dtype("u1"), 1 << 26) as learned,
            ):
                for pair in part:
                    response = getattr(pair, side)
                    tokens.write([*pair.prompt, *response], 1)
                    learned.write([0] * len(pair.prompt) + [1] * len(response), 1)
    details = {"vocab_size": VOCABULARY, "eot_id": END}
    (folder / "artifact.json").write_text(json.dumps({"kind": "prepare", "details": details}))


def a_row_holds(kind: str, scratch: Path) -> float:
    """How many conversations, or pairs, a row holds in the mean."""
    rows = {"sft": Responses, "dpo": Preferences}[kind](LENGTH[kind], END).open(scratch / "data/train")
    return len(pairs()) / len(rows)


def a_job_to_train(kind: str, scratch: Path) -> Job:
    """A stage that goes on for as long as it is let."""
    settings = {
        "data": "data",
        "model": {"path": str(scratch / "model")},
        "steps": 1_000_000,
        "sequenceLength": LENGTH[kind],
        "globalBatch": ROWS,
        "microBatch": MICRO_BATCH,
        "validation": {"everySteps": 1_000_000},
        "checkpoint": {"everySteps": 1_000_000},
    }
    (scratch / kind).mkdir(exist_ok=True)
    return a_job(kind, scratch / kind, settings, {"data": scratch / "data"})
