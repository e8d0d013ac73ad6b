"""What all ranks must know of one's shard once it is written, in equally many bytes, so that it travels as a tensor does."""

import struct
from typing import NamedTuple

from trainyard_api.checkpoint import Shard

from .background import Answer

_PACKED = struct.Struct("<Q32s?")


class Written(NamedTuple):
    """One rank's shard."""

    size: int
    sha256: bytes
    uncopied: bool
    """Whether the one before did not reach the next worker's agent, though it was to."""

    @classmethod
    def of(cls, answer: Answer) -> "Written":
        """What a writer said."""
        assert answer.shard
        return cls(answer.shard.bytes, bytes.fromhex(answer.shard.sha256), answer.copied is False)

    @classmethod
    def read(cls, packed: bytes) -> "Written":
        """What `packed` made."""
        return cls(*_PACKED.unpack(packed))

    def packed(self) -> bytes:
        """As it is sent."""
        return _PACKED.pack(*self)

    def shard(self, rank: int) -> Shard:
        """As the manifest tells it."""
        return Shard(file=shard_file(rank), bytes=self.size, sha256=self.sha256.hex())


def shard_file(rank: int) -> str:
    """The name of a rank's shard in a checkpoint's folder."""
    return f"rank-{rank:05}.safetensors"
