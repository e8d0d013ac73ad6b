"""How well rows are filled, and what a plan costs."""

import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from preparing import run_prepare
from trainyard_trainer.data.objectives.next_token import NextToken
from trainyard_trainer.data.packing import PackedDocuments, Sizes


def of_mixed_length(documents: int) -> np.ndarray:
    """Ends of documents as the web has them: log-normal lengths, half of them below 400 tokens."""
    lengths = np.random.default_rng(0).lognormal(6, 1.2, documents).astype(np.uint64) + np.uint64(2)
    return np.cumsum(lengths)


def as_they_are(lengths: Sizes) -> Sizes:
    return lengths


@pytest.mark.parametrize("row", [128, 1024, 4096])
def test_99_percent_of_positions_hold_a_token(row: int) -> None:
    packed = PackedDocuments(of_mixed_length(20_000), row, as_they_are)
    assert packed.real >= 0.999
    assert len(packed) * row * packed.real == pytest.approx(float(of_mixed_length(20_000)[-1]))


def test_99_percent_also_of_a_small_corpus_of_few_long_documents(tmp_path: Path) -> None:
    run_prepare(tmp_path, {"builtin": "python-docs"}, heldOutFraction=0.15, tokenizer={"vocabSize": 2048})
    rows = NextToken(512, begin=0).open(tmp_path / "out/train")
    assert rows.real >= 0.99
    assert 0 < rows.documents_cut < rows.tokens.num_documents


def test_a_plan_keeps_four_bytes_a_document_and_takes_few_more_to_make() -> None:
    documents = 1_000_000
    ends = of_mixed_length(documents)
    tracemalloc.start()
    packed = PackedDocuments(ends, 2048, as_they_are)
    kept, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert kept < 7 * documents
    assert most < 50 * documents
    assert len(packed) > 1000


def test_another_plan_for_the_same_documents_is_the_same() -> None:
    one, other = (PackedDocuments(of_mixed_length(2000), 512, as_they_are) for _ in range(2))
    assert [one.row(number) for number in range(len(one))] == [other.row(number) for number in range(len(other))]
