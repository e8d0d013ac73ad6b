"""Token shards: their types, their borders, and damage that is noticed."""

from pathlib import Path

import numpy as np
import pytest
from trainyard_trainer.data.shards import ShardWriter, TokenShards, token_dtype
from trainyard_trainer.errors import PermanentError


def write(folder: Path) -> Path:
    with ShardWriter(folder, token_dtype(300), shard_tokens=4) as writer:
        for document in ([1, 2, 3], [4, 5, 6, 7, 8, 299]):
            writer.write(document, num_bytes=10)
    return folder


@pytest.mark.parametrize(("vocab_size", "size"), [(258, 2), (65_536, 2), (65_537, 4), (1_000_000, 4)])
def test_tokens_take_two_bytes_where_the_vocabulary_fits(vocab_size: int, size: int) -> None:
    dtype = token_dtype(vocab_size)
    assert dtype.itemsize == size
    assert np.iinfo(dtype).max >= vocab_size - 1


def test_a_window_is_a_copy_that_may_be_changed(tmp_path: Path) -> None:
    shards = TokenShards(write(tmp_path / "split"))
    shards.window(0, 9)[:] = 0
    assert shards.window(0, 9).tolist() == [1, 2, 3, 4, 5, 6, 7, 8, 299]


@pytest.mark.parametrize(("start", "length"), [(-1, 2), (8, 2), (10, 0), (0, 10)])
def test_a_window_outside_the_split_is_an_error(tmp_path: Path, start: int, length: int) -> None:
    with pytest.raises(IndexError, match="split that has 9"):
        TokenShards(write(tmp_path / "split")).window(start, length)


@pytest.mark.parametrize("name", ["shard-00001.bin", "documents.idx"])
@pytest.mark.parametrize("damage", ["cut", "gone"])
def test_damaged_data_is_refused_with_the_remedy(tmp_path: Path, name: str, damage: str) -> None:
    path = write(tmp_path / "split") / name
    path.unlink() if damage == "gone" else path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(PermanentError, match=rf"{name}: has .* run it again"):
        TokenShards(tmp_path / "split")
