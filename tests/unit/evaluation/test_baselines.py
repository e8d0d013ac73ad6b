"""The baselines against figures worked out by hand."""

import math
import zlib
from pathlib import Path

import pytest
from trainyard_trainer.data.shards import ShardWriter, TokenShards, token_dtype
from trainyard_trainer.evaluation.baselines import unigram_bits_per_byte, zlib_bits_per_byte


def shards(folder: Path, tokens: list[int], num_bytes: int) -> TokenShards:
    with ShardWriter(folder, token_dtype(4), shard_tokens=5) as writer:
        writer.write(tokens, num_bytes)
    return TokenShards(folder)


def test_unigram_adds_one_to_the_counts_of_the_training_split(tmp_path: Path) -> None:
    train = shards(tmp_path / "train", [1, 1, 1, 2, 0], num_bytes=4)
    held_out = shards(tmp_path / "held-out", [1, 3, 0], num_bytes=2)
    probabilities = [4 / 9, 1 / 9, 2 / 9]  # of 1, 3 and 0 out of (0: 2, 1: 4, 2: 2, 3: 1) / 9
    bits = -sum(math.log2(p) for p in probabilities)
    assert unigram_bits_per_byte(train, held_out, vocab_size=4) == pytest.approx(bits / 2)


def test_zlib_sees_the_text_without_the_ends_of_text(tmp_path: Path) -> None:
    table = [b"", b"spam ", b"egg", b"\xf0\x9f"]
    tokens = [1, 2, 0, 3, 1, 1, 0] * 50
    text = b"".join(table[token] for token in tokens)
    held_out = shards(tmp_path / "held-out", tokens, num_bytes=len(text))
    assert zlib_bits_per_byte(held_out, table) == 8 * len(zlib.compress(text, 9)) / len(text)
