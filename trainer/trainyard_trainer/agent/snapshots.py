"""Memory that outlives ranks: two slots for each local rank's own snapshots, and copies of the previous worker's.

The memory is anonymous (memfd). Ranks inherit descriptors and fill their slots by themselves; a report tells when a slot
begins to be overwritten and when it is whole again, so what is handed on, to the ranks of the next attempt or to another
worker, is never torn. A copy is kept only when all of it has arrived, and its digest is right where one was given.
"""

import hashlib
import os
from collections.abc import AsyncIterator, Callable, Iterator

from trainyard_api.protocol import SnapshotState

from ..held import Held
from .starting import for_ranks

SLOTS = 2
PIECE_BYTES = 1024 * 1024


class NoRoomError(Exception):
    """The budget has no room for a copy; str(e) says by how much."""


class TornError(Exception):
    """A copy didn't arrive as it was sent, or a slot was overwritten while it was read."""


class Snapshots:
    """All that one agent holds."""

    def __init__(self) -> None:
        self._slots: list[tuple[int, ...]] = []
        """Descriptors, by local rank."""
        self._own: dict[int, Held] = {}
        """Slots that are whole, by descriptor."""
        self._copies: dict[int, Held] = {}
        """By rank."""
        self._arriving = 0
        """Bytes of copies that are being received."""

    def slots(self, local_rank: int) -> tuple[int, ...]:
        """The descriptors of a local rank's slots, the same ones in each attempt."""
        while len(self._slots) <= local_rank:
            self._slots.append(tuple(for_ranks(os.memfd_create("trainyard-slot")) for _ in range(SLOTS)))
        return self._slots[local_rank]

    def note(self, local_rank: int, said: SnapshotState) -> None:
        """Take note that a rank begins to overwrite a slot (0 bytes), or that the slot is whole."""
        fd = self._slots[local_rank][said.slot]
        self._own.pop(fd, None)
        if said.bytes:
            self._own[fd] = Held(said.rank, said.step, said.attempt, said.bytes, fd)

    @property
    def whole(self) -> list[Held]:
        """What the ranks of the next attempt can begin with."""
        return [*self._own.values(), *self._copies.values()]

    @property
    def slot_bytes(self) -> int:
        """Memory that the slots take."""
        return sum(os.fstat(fd).st_size for slots in self._slots for fd in slots)

    @property
    def copy_bytes(self) -> int:
        """Memory that the copies take, with those that are being received."""
        return self._arriving + sum(copy.bytes for copy in self._copies.values())

    async def receive(
        self,
        rank: int,
        step: int,
        attempt: int,
        size: int,
        pieces: AsyncIterator[bytes],
        *,
        budget: int,
        sha256: str = "",
    ) -> Held:
        """Keep a copy of `size` bytes for which the budget has room, or nothing. The last one is kept until this one is
        whole, unless there is no room for both. Raises NoRoomError and TornError.
        """
        used = self.slot_bytes + self.copy_bytes
        before = self._copies.get(rank)
        if before and used + size > budget:
            self._let_go(rank)
            used -= before.bytes
        if used + size > budget:
            raise NoRoomError(f"{used + size} bytes are needed and {budget} allowed; raise checkpoint.memoryBudget")
        memory = for_ranks(os.memfd_create("trainyard-copy"))
        self._arriving += size
        try:
            await _fill(memory, size, pieces, sha256)
        except BaseException:
            os.close(memory)
            raise
        finally:
            self._arriving -= size
        return Held(rank, step, attempt, size, memory)

    def keep(self, copy: Held) -> None:
        """Replace the copy of that rank, and forget those of older attempts: their ranks may be in another place now."""
        for rank in [rank for rank, held in self._copies.items() if rank == copy.rank or held.attempt < copy.attempt]:
            self._let_go(rank)
        self._copies[copy.rank] = copy

    def newest(self, rank: int, step: int) -> Held | None:
        """The rank's snapshot of a step."""
        found = (held for held in self.whole if (held.rank, held.step) == (rank, step))
        return max(found, key=lambda held: held.attempt, default=None)

    def read(self, held: Held, wanted: range, hear: Callable[[], None]) -> Iterator[bytes]:
        """These bytes of the snapshot, in pieces. `hear` takes in what ranks have reported by now. Raises TornError.

        A rank reports before it overwrites, so a piece is good if no such report has come by the time it is read.
        """
        memory = os.dup(held.fd)
        own = held.fd in self._own
        try:
            for start in wanted[::PIECE_BYTES]:
                piece = os.pread(memory, min(PIECE_BYTES, wanted.stop - start), start)
                hear()
                if own and self._own.get(held.fd) != held:
                    raise TornError(f"the slot of step {held.step} is being overwritten")
                yield piece
        finally:
            os.close(memory)

    def _let_go(self, rank: int) -> None:
        os.close(self._copies.pop(rank).fd)


async def _fill(memory: int, size: int, pieces: AsyncIterator[bytes], sha256: str) -> None:
    digest, arrived = hashlib.sha256(), 0
    async for piece in pieces:
        if sha256:
            digest.update(piece)
        rest = memoryview(piece)
        while rest:
            rest = rest[os.write(memory, rest) :]
        arrived += len(piece)
    if arrived != size:
        raise TornError(f"{arrived} bytes of {size} arrived")
    if sha256 and digest.hexdigest() != sha256:
        raise TornError(f"X-Trainyard-SHA256: {sha256} was announced and {digest.hexdigest()} arrived")
