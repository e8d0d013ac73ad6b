"""Token shards give back what was written, wherever shard borders fall."""

import tempfile
from pathlib import Path

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from trainyard_trainer.data.shards import ShardWriter, TokenShards, token_dtype


@given(
    st.data(),
    st.lists(st.lists(st.integers(0, 65_535), min_size=1, max_size=40), min_size=1, max_size=12),
    st.integers(1, 30),
    st.sampled_from([65_536, 65_537]),
)
def test_any_window_is_that_slice_of_what_was_written(
    data: st.DataObject, documents: list[list[int]], shard_tokens: int, vocab_size: int
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        with ShardWriter(Path(folder, "split"), token_dtype(vocab_size), shard_tokens) as writer:
            for tokens in documents:
                writer.write(tokens, num_bytes=2 * len(tokens))
        shards = TokenShards(Path(folder, "split"))
        everything = np.concatenate(documents)

        start = data.draw(st.integers(0, len(everything)))
        length = data.draw(st.integers(0, len(everything) - start))
        window = shards.window(start, length)
        assert window.dtype == np.int64
        assert np.array_equal(window, everything[start : start + length])
        assert len(shards) == len(everything)
        assert shards.num_bytes == 2 * len(everything)
        assert shards.num_documents == len(documents)
        assert shards.document_ends.tolist() == np.cumsum([len(each) for each in documents]).tolist()
        sizes = [path.stat().st_size for path in Path(folder, "split").glob("*.bin")]
        assert max(sizes) <= shard_tokens * token_dtype(vocab_size).itemsize
        assert len(sizes) == -(-len(everything) // shard_tokens)
