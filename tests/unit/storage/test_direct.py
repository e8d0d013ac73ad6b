"""Writing past the page cache: whatever the size and the alignment, the file holds what was given."""

import errno
import mmap
import os
from pathlib import Path

import pytest
from mounts import mounted
from trainyard_api.direct import BLOCK, PIECE_BYTES, SMALLEST, write_all

SIZES = {
    "nothing": 0,
    "too little to be worth it": 100,
    "whole blocks": SMALLEST,
    "whole pieces": 2 * PIECE_BYTES,
    "a last part of a block": PIECE_BYTES + BLOCK + 17,
}


def in_memory(size: int, shift: int) -> memoryview:
    """Random bytes that begin so many bytes behind a page's beginning."""
    pages = mmap.mmap(-1, size + shift + BLOCK)
    pages[:] = os.urandom(len(pages))
    return memoryview(pages)[shift : shift + size]


@pytest.mark.parametrize("shift", [0, 1, 512], ids=["on a page", "at an odd address", "on a sector"])
@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES)
def test_a_file_holds_what_was_given(tmp_path: Path, size: int, shift: int) -> None:
    content = in_memory(size, shift)
    with open(tmp_path / "file", "xb", buffering=0) as opened:
        write_all(opened.fileno(), content)
    assert (tmp_path / "file").read_bytes() == content


def test_a_file_system_in_memory_takes_it_too_and_says_when_it_is_full(tmp_path: Path) -> None:
    content = in_memory(2 * PIECE_BYTES, 0)
    with mounted(tmp_path, "size=20m"):
        with open(tmp_path / "file", "xb", buffering=0) as opened:
            write_all(opened.fileno(), content)
        assert (tmp_path / "file").read_bytes() == content
        with open(tmp_path / "more", "xb", buffering=0) as opened, pytest.raises(OSError, match="No space") as raised:
            write_all(opened.fileno(), content)
        assert raised.value.errno == errno.ENOSPC
