"""What a model must beat: two ways to write the held-out text that know next to nothing, in bits per byte of its text.

Unigram: each token by its frequency in the training split, one added to every count. Knows the vocabulary, no context.
zlib: the held-out text alone as one stream at level 9. Knows repetition within 32 KiB, nothing of the training split.
"""

import zlib
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from ..data.shards import TokenShards

_CHUNK = 1 << 20
"""Tokens read at once: 8 MiB as int64."""


def unigram_bits_per_byte(train: TokenShards, held_out: TokenShards, vocab_size: int) -> float:
    """Bits to write every held-out token, ends of text included, over the bytes of the held-out text."""
    counts_V = _counts(train, vocab_size) + 1
    bits_V = np.log2(counts_V.sum()) - np.log2(counts_V)
    return float(_counts(held_out, vocab_size) @ bits_V) / held_out.num_bytes


def zlib_bits_per_byte(held_out: TokenShards, token_bytes: Sequence[bytes]) -> float:
    """Size of the compressed held-out text over its size; `token_bytes` is the tokenizer's table of that name."""
    compressor = zlib.compressobj(9)
    size = sum(
        len(compressor.compress(b"".join(token_bytes[t] for t in chunk.tolist()))) for chunk in _chunks(held_out)
    )
    return 8 * (size + len(compressor.flush())) / held_out.num_bytes


def _counts(shards: TokenShards, vocab_size: int) -> NDArray[np.int64]:
    """How often each token occurs, shape (vocab_size,)."""
    counts_V = np.zeros(vocab_size, dtype=np.int64)
    for chunk in _chunks(shards):
        counts_V += np.bincount(chunk, minlength=vocab_size)
    return counts_V


def _chunks(shards: TokenShards) -> Iterator[NDArray[np.int64]]:
    for start in range(0, len(shards), _CHUNK):
        yield shards.window(start, min(_CHUNK, len(shards) - start))
