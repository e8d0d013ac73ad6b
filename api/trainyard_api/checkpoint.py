"""What a stage's checkpoints are, the same on files and in an object store, and how to tell a good one from a bad one.

    attempts/00000003.json                 {"attempt": 3, "resumedStep": 100, …}: attempt 3 has begun from there
    step-00000100-a2/rank-00000.safetensors …   the shards, written by attempt 2
    step-00000100-a2/manifest.json         written last, in one piece: with it, this is a checkpoint
    step-00000200-a2/bad.json              {"reason": …, "time": …}: put aside, and never read again

Nothing is renamed and nothing is locked, so a writer that was paused may go on at any time, and even put its manifest
after a newer attempt has looked. That does not count: a checkpoint is void once a newer attempt has begun from an earlier
step, which says that its work is being done again. So what counts is always one history, whatever lands when.

The trainer writes all this; `trainyard checkpoints` reads it, and must not need torch for it.
"""

import hashlib
import json
import re
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Annotated, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, StringConstraints, ValidationError
from pydantic.alias_generators import to_camel

from .objectives import TrainedOn
from .objects import PART_BYTES
from .storage import Storage, read_into

ATTEMPTS = "attempts"
MANIFEST = "manifest.json"
BAD = "bad.json"
_NAME = re.compile(r"step-(\d+)-a(\d+)")
_WRITTEN_BY = re.compile(rf"{ATTEMPTS}/(\d+)\.json|step-\d+-a(\d+)/.+")
_CHUNK_BYTES = 4 * PART_BYTES
_REQUESTS = 8
"""Under way at once where there is a request for each of many things."""


class Name(NamedTuple):
    """The folder of a checkpoint. The greatest is the newest."""

    step: int
    attempt: int

    def __str__(self) -> str:
        return f"step-{self.step:08}-a{self.attempt}"

    @classmethod
    def read(cls, folder: str) -> "Name | None":
        """`step-00000100-a2`, or None for what isn't called like that."""
        found = _NAME.fullmatch(folder)
        return cls(int(found[1]), int(found[2])) if found else None


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
    """What defines the order of data. `Manifest.step` global batches of it are done; how many were passed over, shards tell."""

    seed: int
    global_batch: int
    sequence_length: int
    objective: TrainedOn = "NextToken"
    """Each packs documents into rows of its own."""
    parts: list[CursorPart]
    """What is trained on: one corpus, or those of the mixture, in order."""


class Manifest(_Part):
    """The whole of manifest.json."""

    version: int = 2
    step: int
    attempt: int
    time: str
    run_uid: str
    world_size: int
    zero_stage: int
    cursor: Cursor
    settings_digest: str
    parameters: dict[str, list[int]]
    """Name → shape."""
    held_out_loss: float | None = None
    """Of the model after this step, if it was validated; in nats per token."""
    shards: list[Shard]


class RolledBack(_Part):
    """That an attempt has ended in a roll-back. It stays on record, for checkpoints from before know nothing of it."""

    attempt: int
    """The one that ended."""
    to_step: int
    """The next one begins with a checkpoint of this step or an older one, if there is one."""
    batch: int
    """The last global batch in the order of data that does not come again."""
    skipped: int
    """Batches that were left out by then, since the stage began."""
    faults: list[int] = []
    """Steps at which the last ones were."""


class Attempt(_Part):
    """That an attempt has begun, and from where."""

    attempt: int
    """The number that it has here: attempts of an earlier run of the same name come before those of this one."""
    after: int
    """The last number of earlier runs."""
    run_uid: str
    resumed_step: int
    """0 if anew."""
    rolled_back: RolledBack | None = None
    """The last roll-back, of this attempt or of one before it."""


class Bad(_Part):
    """Why a checkpoint was put aside."""

    reason: str
    time: str


class BadCheckpointError(Exception):
    """A checkpoint that can't be trusted; str(e) says what is wrong with it."""


State = Literal["committed", "bad", "void", "unfinished"]


@dataclass(frozen=True)
class Found:
    """A folder among a stage's checkpoints."""

    name: Name
    state: State
    reason: str = ""
    """Why it is bad, or void."""


def attempt_path(attempt: int) -> str:
    """`attempts/00000003.json`"""
    return f"{ATTEMPTS}/{attempt:08}.json"


def written_by(path: str) -> int | None:
    """The attempt that a path is of; None if it is of none."""
    found = _WRITTEN_BY.fullmatch(path)
    return int(found[1] or found[2]) if found else None


def attempts(checkpoints: Storage) -> list[int]:
    """The attempts that have begun, ascending."""
    return sorted(int(name.removesuffix(".json")) for name in checkpoints.names(ATTEMPTS))


def read_attempt(checkpoints: Storage, attempt: int) -> Attempt:
    """What is on record of an attempt."""
    return Attempt.model_validate_json(checkpoints.read(attempt_path(attempt)))


def voided_by(name: Name, resumed: Mapping[int, int]) -> int | None:
    """The attempt that made a checkpoint void, if any has. `resumed` has the step from which each began."""
    return next((b for b in sorted(resumed) if b > name.attempt and resumed[b] < name.step), None)


def void(checkpoints: Storage, names: list[Name]) -> list[Name]:
    """Those of `names` that a newer attempt has made void."""
    oldest = min((name.attempt for name in names), default=0)
    newer = [attempt for attempt in attempts(checkpoints) if attempt > oldest] if names else []
    resumed = {attempt: read_attempt(checkpoints, attempt).resumed_step for attempt in newer}
    return [name for name in names if voided_by(name, resumed) is not None]


def look(checkpoints: Storage) -> list[Found]:
    """Every checkpoint there, and what has begun to be one, in ascending order."""
    names = sorted(name for folder in checkpoints.names() if (name := Name.read(folder)))
    if not names:
        return []
    oldest = min(name.attempt for name in names)
    newer = [attempt for attempt in attempts(checkpoints) if attempt > oldest]
    with ThreadPoolExecutor(_REQUESTS) as pool:
        contents = list(pool.map(lambda name: checkpoints.names(str(name)), names))
        records = list(pool.map(lambda attempt: read_attempt(checkpoints, attempt), newer))
        resumed = {record.attempt: record.resumed_step for record in records}
        return list(pool.map(lambda name, files: _found(checkpoints, name, files, resumed), names, contents))


def committed(checkpoints: Storage) -> list[Name]:
    """The checkpoints that count, good or not, in ascending order."""
    return [found.name for found in look(checkpoints) if found.state == "committed"]


def _found(checkpoints: Storage, name: Name, files: list[str], resumed: Mapping[int, int]) -> Found:
    if BAD in files:
        return Found(name, "bad", Bad.model_validate_json(checkpoints.read(f"{name}/{BAD}")).reason)
    if MANIFEST not in files:
        return Found(name, "unfinished")
    if (by := voided_by(name, resumed)) is not None:
        return Found(name, "void", f"attempt {by} began from step {resumed[by]}")
    return Found(name, "committed")


def read_manifest(checkpoint: Storage) -> Manifest:
    """The manifest of a checkpoint, or BadCheckpointError."""
    try:
        manifest = Manifest.model_validate(json.loads(checkpoint.read(MANIFEST)))
    except FileNotFoundError:
        raise BadCheckpointError(f"{MANIFEST} is missing") from None
    except (ValueError, ValidationError) as error:
        raise BadCheckpointError(f"{MANIFEST} is damaged: {str(error).splitlines()[0]}") from None
    name = Name.read(checkpoint.uri.rpartition("/")[2])
    if name and name.step != manifest.step:
        raise BadCheckpointError(f"{MANIFEST} is that of step {manifest.step}")
    return manifest


def held_out_loss(checkpoints: Storage, name: Name) -> float | None:
    """Of the model in a checkpoint, in nats per token; None if it wasn't measured, or can't be read."""
    try:
        return read_manifest(checkpoints.at(str(name))).held_out_loss
    except BadCheckpointError:
        return None


def read_shard(checkpoint: Storage, shard: Shard, into: memoryview | None = None) -> memoryview:
    """A shard in memory, or BadCheckpointError unless it is, to the last byte, what was written."""
    content = memoryview(bytearray(shard.bytes)) if into is None else into
    _verify(checkpoint, shard, content)
    return content


def verify_shard(checkpoint: Storage, shard: Shard) -> None:
    """The same, with no more of it in memory than need be."""
    _verify(checkpoint, shard, memoryview(bytearray(min(shard.bytes, _CHUNK_BYTES))))


def _verify(checkpoint: Storage, shard: Shard, buffer: memoryview) -> None:
    """Through the buffer, as often as it takes."""
    digest = hashlib.sha256()
    try:
        if (size := checkpoint.size(shard.file)) != shard.bytes:
            raise BadCheckpointError(f"{shard.file} has {size} bytes where {shard.bytes} were written")
        for start in range(0, shard.bytes, max(1, len(buffer))):
            chunk = buffer[: shard.bytes - start]
            read_into(checkpoint, shard.file, chunk, start)
            digest.update(chunk)
    except FileNotFoundError:
        raise BadCheckpointError(f"{shard.file} is missing") from None
    if digest.hexdigest() != shard.sha256:
        raise BadCheckpointError(f"{shard.file} has other content than was written (SHA-256 differs)")
