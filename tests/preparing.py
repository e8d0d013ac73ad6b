"""Running the prepare stage on real files, and reading back what it made."""

from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer
from trainyard_api.protocol import Job
from trainyard_trainer.artifacts import read_artifact
from trainyard_trainer.data.shards import TokenShards
from trainyard_trainer.group import Group
from trainyard_trainer.stages.prepare import prepare

MANY = {f"d{number:02}.txt": f"document {number}: naïve 🦜 text\r\n" * (number + 1) for number in range(30)}


def a_prepare_job(storage: Path, settings: dict[str, Any], run_uid: str = "u", out: str = "out") -> Job:
    return Job(
        namespace="default",
        run="tiny",
        run_uid=run_uid,
        stage="corpus",
        kind="prepare",
        settings={"heldOutFraction": 0.3, "tokenizer": {"vocabSize": 300}, **settings},
        seed=0,
        storage_uri=f"file://{storage}",
        output_uri=f"file://{storage}/{out}",
        inputs={field: f"file://{storage}/{name}" for field, name in _inputs(settings).items()},
    )


def run_prepare(
    storage: Path, *sources: dict[str, Any], out: str = "out", attempt: int = 1, run_uid: str = "u", **settings: Any
) -> dict[str, Any]:
    """Prepare `sources` under `storage` and return the artifact's content."""
    output = storage / out
    output.mkdir(exist_ok=True)
    job = a_prepare_job(storage, {"sources": sources, **settings}, run_uid, out)
    inputs = {field: storage / name for field, name in _inputs(settings).items()}
    prepare(Group(job, attempt=attempt, rank=0, world_size=1, local_rank=0, output=output, inputs=inputs))
    return read_artifact(output, "prepare")


def _inputs(settings: dict[str, Any]) -> dict[str, str]:
    shared = settings.get("tokenizer", {}).get("stage")
    return {"tokenizer.stage": shared} if shared else {}


def texts(output: Path, split: str) -> list[str]:
    """The documents of a split, decoded; each must end with the end of text, and only there."""
    shards, tokenizer = TokenShards(output / split), Tokenizer.from_file(str(output / "tokenizer/tokenizer.json"))
    documents = np.split(shards.window(0, len(shards)), shards.document_ends.astype(np.int64))[:-1]
    end = tokenizer.token_to_id("<|endoftext|>")
    assert all(document[-1] == end and end not in document[:-1] for document in documents)
    return [tokenizer.decode(document[:-1].tolist(), skip_special_tokens=False) for document in documents]


def put(folder: Path, files: dict[str, str | bytes]) -> Path:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return folder
