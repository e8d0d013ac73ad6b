"""Files of a checkpoint, put on disk for good. What they are is `trainyard_api.checkpoint`'s matter."""

import hashlib
import os
from pathlib import Path

from trainyard_api.checkpoint import Shard


def write_shard(path: Path, content: bytes) -> Shard:
    """Put a shard on disk, for good."""
    write_synced(path, content)
    return Shard(file=path.name, bytes=len(content), sha256=hashlib.sha256(content).hexdigest())


def write_synced(path: Path, content: bytes) -> None:
    """Write a file that a power cut can't take any more (its name is the folder's matter)."""
    with open(path, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
