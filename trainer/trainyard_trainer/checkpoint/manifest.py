"""manifest.json: what a checkpoint consists of. It is written last, so a folder without a good one is no checkpoint."""

import hashlib
import json
import os
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic.alias_generators import to_camel

MANIFEST = "manifest.json"


class _Part(BaseModel):
    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, frozen=True)


class Shard(_Part):
    """A file of the checkpoint; shard r was written by rank r."""

    file: str
    bytes: int
    sha256: str


class Cursor(_Part):
    """What defines the order of data. `Manifest.step` global batches of it are done: that is the whole data cursor."""

    seed: int
    global_batch: int
    sequence_length: int
    data_digest: str
    """Of the artifact.json of the data."""


class Manifest(_Part):
    """The whole of manifest.json."""

    version: int = 1
    step: int
    attempt: int
    time: str
    world_size: int
    zero_stage: int
    cursor: Cursor
    settings_digest: str
    parameters: dict[str, list[int]]
    """Name → shape."""
    shards: list[Shard]


class BadCheckpointError(Exception):
    """A checkpoint that can't be trusted; str(e) says what is wrong with it."""


def write_shard(path: Path, content: bytes) -> Shard:
    """Put a shard on disk, for good."""
    write_synced(path, content)
    return Shard(file=path.name, bytes=len(content), sha256=hashlib.sha256(content).hexdigest())


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a checkpoint, or BadCheckpointError."""
    try:
        return Manifest.model_validate(json.loads((folder / MANIFEST).read_bytes()))
    except FileNotFoundError:
        raise BadCheckpointError(f"{MANIFEST} is missing") from None
    except (ValueError, ValidationError) as error:
        raise BadCheckpointError(f"{MANIFEST} is damaged: {str(error).splitlines()[0]}") from None


def verify_shards(folder: Path, shards: list[Shard]) -> None:
    """BadCheckpointError unless each shard holds, to the last byte, what was written."""
    for shard in shards:
        try:
            with open(folder / shard.file, "rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
                size = file.tell()
        except FileNotFoundError:
            raise BadCheckpointError(f"{shard.file} is missing") from None
        if size != shard.bytes:
            raise BadCheckpointError(f"{shard.file} has {size} bytes where {shard.bytes} were written")
        if digest != shard.sha256:
            raise BadCheckpointError(f"{shard.file} has other content than was written (SHA-256 differs)")


def write_synced(path: Path, content: bytes) -> None:
    """Write a file that a power cut can't take any more (its name is the folder's matter)."""
    with open(path, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
