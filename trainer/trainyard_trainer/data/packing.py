"""Which documents share a row: best-fit decreasing, where a document that is longer than a row is cut into rows of its own
and one rest.

Items of one size are alike, so the packing is done on the histogram of sizes, many rows at once: the result is that of best-fit
decreasing item by item, for 0.1 s whatever the number of documents (rows of 4,096). A plan is a function of the sizes alone and
keeps 4 bytes a document (40 while it is made, in 0.5 s a million); which pieces a row holds is looked up
by arithmetic, so that resuming needs nothing else. The order in which rows are trained on is `order`'s, not this module's.

With some short documents among them only the last rows are left with room. Documents all of, say, 0.6 rows can't share any:
`real` tells.
"""

from bisect import bisect_left, insort
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Sizes = NDArray[np.int64]


@dataclass
class _Alike:
    """Rows that hold equally many items of equal sizes."""

    items: tuple[tuple[int, int], ...]
    """(size, how many of it), in the order of packing."""
    rows: int
    room: int


class BestFit:
    """Items in rows of `capacity`; those of size 0 are in none."""

    def __init__(self, sizes: Sizes, capacity: int) -> None:
        self.num_items = int(np.count_nonzero(sizes))
        self._alike = _best_fit_decreasing(np.bincount(sizes, minlength=capacity + 1), capacity)
        narrow = np.uint16 if capacity < 1 << 16 else np.uint32  # NumPy sorts 16 bits by radix
        index = np.uint32 if len(sizes) < 1 << 32 else np.uint64
        self._by_size = np.argsort(sizes.astype(narrow), kind="stable").astype(index)
        """Items by size, of one size in their own order."""
        self._ends = np.cumsum([each.rows for each in self._alike], dtype=np.int64)
        self._firsts = self._first_items(sizes, capacity)

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def row(self, number: int) -> list[int]:
        """The items of a row."""
        group = int(np.searchsorted(self._ends, number, side="right"))
        alike = self._alike[group]
        place = number - (int(self._ends[group]) - alike.rows)
        items: list[int] = []
        for first, (_, many) in zip(self._firsts[group], alike.items, strict=True):
            items += self._by_size[first + place * many : first + (place + 1) * many].tolist()
        return items

    def _first_items(self, sizes: Sizes, capacity: int) -> list[list[int]]:
        """For each group of rows and each size in it, where in `_by_size` its items begin."""
        counts = np.bincount(sizes, minlength=capacity + 1)
        free = (np.cumsum(counts) - counts).tolist()
        firsts = []
        for alike in self._alike:
            firsts.append([free[size] for size, _ in alike.items])
            for size, many in alike.items:
                free[size] += many * alike.rows
        return firsts


class Piece(NamedTuple):
    """Tokens of a split that belong to one document."""

    start: int
    length: int
    document: int
    begins: bool
    """Whether the document begins here."""
    ends: bool
    """Whether it ends with this."""


class PackedDocuments:
    """The rows of a split: first those filled by one piece, then those that pieces share. Every token is in just one."""

    def __init__(
        self, document_ends: NDArray[np.unsignedinteger], capacity: int, size_of: Callable[[Sizes], Sizes]
    ) -> None:
        """`size_of` tells what pieces of so many tokens, at least one, take in a row; it grows with them."""
        self._document_ends = document_ends
        lengths = np.diff(document_ends, prepend=document_ends.dtype.type(0)).astype(np.int64)
        self.whole = largest_piece(capacity, size_of)
        """Tokens of a piece that fills a row."""
        wholes, rests = np.divmod(lengths, self.whole)
        [self._cut] = np.nonzero(wholes)
        self._whole_ends = np.cumsum(wholes[self._cut])
        self._rests = BestFit(np.where(rests > 0, size_of(np.maximum(rests, 1)), 0), capacity)
        self.too_long = 0
        self.documents_cut = int(np.count_nonzero(lengths > self.whole))
        used = np.where(rests > 0, size_of(np.maximum(rests, 1)), 0).sum() + self._num_wholes * capacity
        self.real = float(used / (capacity * len(self))) if len(self) else 1.0
        """Share of positions that hold a token."""

    def __len__(self) -> int:
        return self._num_wholes + len(self._rests)

    def row(self, number: int) -> list[Piece]:
        """The pieces of a row."""
        if number < self._num_wholes:
            place = int(np.searchsorted(self._whole_ends, number, side="right"))
            document = int(self._cut[place])
            before = int(self._whole_ends[place - 1]) if place else 0
            return [self._piece(document, (number - before) * self.whole, self.whole)]
        return [self._rest(document) for document in self._rests.row(number - self._num_wholes)]

    @property
    def _num_wholes(self) -> int:
        return int(self._whole_ends[-1]) if len(self._whole_ends) else 0

    def _rest(self, document: int) -> Piece:
        length = self._end(document) - self._end(document - 1)
        return self._piece(document, length // self.whole * self.whole, length % self.whole)

    def _piece(self, document: int, offset: int, length: int) -> Piece:
        begin, end = self._end(document - 1), self._end(document)
        return Piece(begin + offset, length, document, offset == 0, begin + offset + length == end)

    def _end(self, document: int) -> int:
        return int(self._document_ends[document]) if document >= 0 else 0


def largest_piece(capacity: int, size_of: Callable[[Sizes], Sizes]) -> int:
    """Tokens of the largest piece that a row of its own can hold."""
    lengths = np.arange(1, 2 * capacity + 1)
    return int(np.searchsorted(size_of(lengths), capacity, side="right"))


def _best_fit_decreasing(counts: NDArray[np.int64], capacity: int) -> list[_Alike]:
    """From the largest size on, each item goes where it leaves the least room. `counts` are items by size."""
    full: list[_Alike] = []
    by_room: dict[int, list[_Alike]] = {}
    rooms: list[int] = []

    def put(alike: _Alike) -> None:
        if not alike.rows:
            return
        if not alike.room:
            full.append(alike)
            return
        if alike.room not in by_room:
            insort(rooms, alike.room)
        by_room.setdefault(alike.room, []).append(alike)

    def take(room: int) -> _Alike:
        alike = by_room[room].pop()
        if not by_room[room]:
            del by_room[room]
            rooms.remove(room)
        return alike

    def add(alike: _Alike, rows: int, size: int, many: int) -> None:
        put(_Alike((*alike.items, (size, many)), rows, alike.room - size * many))

    for size in np.flatnonzero(counts[1:])[::-1].tolist():
        size, left = size + 1, int(counts[size + 1])
        while left:
            at = bisect_left(rooms, size)
            alike = take(rooms[at]) if at < len(rooms) else _Alike((), left, capacity)
            each = alike.room // size  # a row that got one is the best for the next, while there is room
            filled = min(alike.rows, left // each)
            left -= filled * each
            add(alike, filled, size, each)
            unfilled = alike.rows - filled
            if unfilled and left:
                add(alike, 1, size, left)
                unfilled, left = unfilled - 1, 0
            if alike.items:
                put(_Alike(alike.items, unfilled, alike.room))
    return full + [alike for room in rooms for alike in by_room[room]]
