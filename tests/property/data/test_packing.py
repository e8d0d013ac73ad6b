"""The packer against best-fit decreasing one item at a time, and against the corpus: nothing lost, nothing twice."""

from collections.abc import Callable

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from trainyard_trainer.data.packing import BestFit, PackedDocuments, Sizes


def as_they_are(lengths: Sizes) -> Sizes:
    return lengths


def with_one_more(lengths: Sizes) -> Sizes:
    return lengths + 1


@st.composite
def items(draw: st.DrawFn) -> tuple[list[int], int]:
    capacity = draw(st.integers(1, 50))
    return draw(st.lists(st.integers(0, capacity), max_size=200)), capacity


@given(items())
def test_it_is_best_fit_decreasing(given_: tuple[list[int], int]) -> None:
    sizes, capacity = given_
    packed = BestFit(np.array(sizes, dtype=np.int64), capacity)
    rows = [packed.row(number) for number in range(len(packed))]
    assert sorted(item for row in rows for item in row) == [item for item, size in enumerate(sizes) if size]
    assert sorted(capacity - sum(sizes[item] for item in row) for row in rows) == one_by_one(sizes, capacity)


def one_by_one(sizes: list[int], capacity: int) -> list[int]:
    """The room that is left in each row, ascending."""
    rooms: list[int] = []
    for size in sorted(filter(None, sizes), reverse=True):
        if fitting := [room for room in rooms if room >= size]:
            rooms[rooms.index(min(fitting))] -= size
        else:
            rooms.append(capacity - size)
    return sorted(rooms)


@given(
    st.lists(st.integers(1, 300), min_size=1, max_size=60),
    st.integers(2, 64),
    st.sampled_from([as_they_are, with_one_more]),
)
def test_every_token_is_in_one_row_and_no_row_is_overfull(
    lengths: list[int], capacity: int, size_of: Callable[[Sizes], Sizes]
) -> None:
    ends = np.cumsum(lengths).astype(np.uint64)
    packed = PackedDocuments(ends, capacity, size_of)
    rows = [packed.row(number) for number in range(len(packed))]
    pieces = sorted(piece for row in rows for piece in row)
    assert [token for piece in pieces for token in range(piece.start, piece.start + piece.length)] == list(
        range(ends[-1])
    )
    for piece in pieces:
        begin, end = int(ends[piece.document]) - lengths[piece.document], int(ends[piece.document])
        assert begin <= piece.start < piece.start + piece.length <= end
        assert piece.begins == (piece.start == begin)
        assert piece.ends == (piece.start + piece.length == end)
    used = [sum(int(size_of(np.array([piece.length]))[0]) for piece in row) for row in rows]
    assert max(used) <= capacity
    assert packed.real == sum(used) / (capacity * len(rows))
    cut = {piece.document for piece in pieces if not (piece.begins and piece.ends)}
    assert packed.documents_cut == len(cut)
