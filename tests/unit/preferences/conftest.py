"""Pairs of responses that several modules learn from."""

import json
from pathlib import Path

import pytest
from preparing import put, run_prepare


@pytest.fixture(scope="module")
def split(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The training split of prepared pairs."""
    folder = tmp_path_factory.mktemp("storage")
    put(folder / "texts", {f"{n}.txt": "yes no is it so, it is? " * (5 + n) for n in range(8)})
    run_prepare(folder, {"path": "texts"}, out="corpus", tokenizer={"vocabSize": 280})
    rows = [{"prompt": f"{n}?", "chosen": "yes " * (n % 4 + 1), "rejected": "no", "margin": n % 3} for n in range(30)]
    put(folder, {"votes.jsonl": "".join(json.dumps(row) + "\n" for row in rows)})
    run_prepare(folder, {"path": "votes.jsonl", "format": "preferences"}, out="votes", tokenizer={"stage": "corpus"})
    return folder / "votes/train"
