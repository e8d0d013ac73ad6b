"""A snapshot that is whole in an agent's memory: what the agent keeps of it, and hands to the ranks of the next attempt."""

import mmap
from dataclasses import dataclass


@dataclass(frozen=True)
class Held:
    """A rank's shard of a step, and the descriptor of the memory that it is in."""

    rank: int
    step: int
    attempt: int
    bytes: int
    fd: int

    def content(self) -> memoryview:
        """The shard itself; for reading."""
        return memoryview(mmap.mmap(self.fd, self.bytes))
