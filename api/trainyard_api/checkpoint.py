"""What a checkpoint is: a folder with a file a rank and a manifest, and how to tell a good one from a bad one.

    fence                         the highest attempt that has begun; an older one can't commit any more
    step-00000100/                manifest.json and the shards that it lists
    step-00000200.3.tmp/          attempt 3 is (or was) writing this one
    step-00000300.bad/            quarantined; reason.txt says why

manifest.json is written last, so a folder without a good one is no checkpoint. The trainer writes these folders; the
`trainyard checkpoints` command reads them, and must not need torch for it.
"""

import hashlib
import json
import re
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, StringConstraints, ValidationError
from pydantic.alias_generators import to_camel

FENCE = "fence"
MANIFEST = "manifest.json"
REASON = "reason.txt"
_COMMITTED = re.compile(r"step-(\d+)")


class _Part(BaseModel):
    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, frozen=True)


class Shard(_Part):
    """A file of the checkpoint; shard r was written by rank r."""

    file: Annotated[str, StringConstraints(pattern=r"^\w[\w.-]*$")]
    """A plain name: no path leads out of the checkpoint."""
    bytes: int
    sha256: str


class CursorPart(_Part):
    """A prepared corpus and its share of the sequences."""

    digest: str
    """Of its artifact.json."""
    weight: int


class Cursor(_Part):
    """What defines the order of data. `Manifest.step` global batches of it are done: that is the whole data cursor."""

    seed: int
    global_batch: int
    sequence_length: int
    parts: list[CursorPart]
    """What is trained on: one corpus, or those of the mixture, in order."""


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
    held_out_loss: float | None = None
    """Of the model after this step, if it was validated; in nats per token."""
    shards: list[Shard]


class BadCheckpointError(Exception):
    """A checkpoint that can't be trusted; str(e) says what is wrong with it."""


def folder_name(step: int) -> str:
    """`step-00000100`"""
    return f"step-{step:08}"


def temporary_name(step: int, attempt: int) -> str:
    """`step-00000100.3.tmp`: what attempt 3 calls it until it is committed."""
    return f"{folder_name(step)}.{attempt}.tmp"


def quarantined_name(step: int) -> str:
    """`step-00000100.bad`"""
    return f"{folder_name(step)}.bad"


def committed_steps(folder: Path) -> list[int]:
    """Steps with a committed checkpoint, good or not, in ascending order."""
    return sorted(int(found[1]) for each in folder.iterdir() if (found := _COMMITTED.fullmatch(each.name)))


def read_manifest(checkpoint: Path) -> Manifest:
    """The manifest of a checkpoint, or BadCheckpointError."""
    try:
        return Manifest.model_validate(json.loads((checkpoint / MANIFEST).read_bytes()))
    except FileNotFoundError:
        raise BadCheckpointError(f"{MANIFEST} is missing") from None
    except (ValueError, ValidationError) as error:
        raise BadCheckpointError(f"{MANIFEST} is damaged: {str(error).splitlines()[0]}") from None


def verify_shards(checkpoint: Path, shards: list[Shard]) -> None:
    """BadCheckpointError unless each shard holds, to the last byte, what was written."""
    for shard in shards:
        verify_shard(checkpoint, shard)


def verify_shard(checkpoint: Path, shard: Shard) -> None:
    """BadCheckpointError unless the shard holds, to the last byte, what was written."""
    try:
        with open(checkpoint / shard.file, "rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            size = file.tell()
    except FileNotFoundError:
        raise BadCheckpointError(f"{shard.file} is missing") from None
    if size != shard.bytes:
        raise BadCheckpointError(f"{shard.file} has {size} bytes where {shard.bytes} were written")
    if digest != shard.sha256:
        raise BadCheckpointError(f"{shard.file} has other content than was written (SHA-256 differs)")
