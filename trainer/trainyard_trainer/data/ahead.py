"""Global batches, read by a thread while the one before is trained on: training waits for data only if reading takes longer.

Which batch comes next is nearly always known: the one after. Where a step goes wrong and another one is wanted, what was read
is dropped. The order is arithmetic, so nothing is lost by that, and a batch is the same whoever reads it. One batch ahead is
enough to hide any reading that is faster than training; what isn't would not be hidden by two.
"""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

from .batch import Batch


class Ahead:
    """Reads one global batch ahead, this rank's share of it."""

    def __init__(self, read: Callable[[int], Iterable[Batch]]) -> None:
        """`read` gives a rank's micro-batches of the global batch of a number, in another thread."""
        self._read = read
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="data")
        self._number = 0
        self._next: Future[list[Batch]] | None = None

    def micro_batches(self, number: int, last: bool = False) -> Iterator[Batch]:
        """This rank's share of a global batch; the one after is read from now on, unless this is the `last`."""
        read = self._next if self._next and self._number == number else self._begin(number)
        batches = read.result()
        self._number, self._next = number + 1, None if last else self._begin(number + 1)
        yield from batches

    def _begin(self, number: int) -> Future[list[Batch]]:
        return self._pool.submit(lambda: list(self._read(number)))
