"""What a stage leaves behind: files in its place in storage, and artifact.json, whose presence says that they are whole.

artifact.json is written in one piece, after everything it names is in storage, and never changes afterwards. It records
a digest of all that the stage was told (kind, settings, seed, inputs): finding the same digest, a stage that is started
again is already done; finding another, it refuses to overwrite.
"""

import hashlib
import json
import math
import mmap
import os
import time
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

from trainyard_api.protocol import Artifact, Beat
from trainyard_api.status import Progress
from trainyard_api.storage import Files, open_storage

from .errors import PermanentError, RetryableError
from .group import Group
from .scratch import Known, Note, fetch, is_folder, one_at_a_time, wanted_files

ARTIFACT = "artifact.json"
_TOLD_BYTES = 64 * 2**20
"""Of a file whose way to storage is told, for it takes a while."""


def write_artifact(
    group: Group,
    *,
    metrics: dict[str, float],
    files: Iterable[Path | str],
    details: dict[str, Any],
    stored: Iterable[Known] = (),
) -> Artifact:
    """Commit what the stage made, and report it. For rank 0, when every rank has written its part.

    `files` are files, or folders taken with all that is in them, where the stage works; they are digested here, and put to
    storage if they aren't there. `stored` is what is in storage already, with its digests. `details` is what readers of
    this kind of artifact need to open it.
    """
    if done := finished_artifact(group):
        return done
    for name, value in metrics.items():
        if not math.isfinite(value):
            raise PermanentError(f"{group.job.stage}: metric {name} is {value}; the model or the data is unusable")
    content = {
        "kind": group.job.kind,
        "namespace": group.job.namespace,
        "run": group.job.run,
        "runUid": group.job.run_uid,
        "stage": group.job.stage,
        "attempt": group.attempt,
        "version": version("trainyard"),
        "settings": group.job.settings,
        "settingsDigest": settings_digest(group),
        "inputs": _inputs(group),
        "files": {
            each.path: {"bytes": each.bytes, "sha256": each.sha256}
            for each in sorted([*_settled(group, files), *stored], key=lambda each: each.path)
        },
        "metrics": metrics,
        "details": details,
    }
    written = json.dumps(content, indent=2, allow_nan=False).encode() + b"\n"
    group.storage.write(ARTIFACT, written)
    return _announce(group, written, metrics)


def finished_artifact(group: Group) -> Artifact | None:
    """The artifact of an earlier attempt at the same job, reported again; None if there is none."""
    if (written := _stored(group)) is None:
        return None
    there = _parsed(written, f"{group.storage.uri}/{ARTIFACT}", (group.job.kind,))
    if there["settingsDigest"] != settings_digest(group):
        raise PermanentError(
            f"{group.storage.uri} holds an artifact that run {there['run']} made with other settings or inputs, and "
            "artifacts never change; give the run or the stage another name, or delete that folder"
        )
    return _announce(group, written, there["metrics"])


def sources_may_have_changed(group: Group) -> bool:
    """Whether there is an artifact that an earlier run of this name made from files that no artifact vouches for.

    The stage itself then looks at the files again. Within one run they are what they were when it began.
    """
    there = own_artifact(group) if group.job.kind == "prepare" else None
    return bool(there and there["runUid"] != group.job.run_uid)


def own_artifact(group: Group) -> dict[str, Any] | None:
    """The content of the stage's artifact.json, None if there is none."""
    written = _stored(group)
    return None if written is None else _parsed(written, f"{group.storage.uri}/{ARTIFACT}", (group.job.kind,))


def fetch_inputs(group: Group) -> None:
    """Bring the artifacts that the stage reads to this worker, unless they are where it can read them in place."""
    for field, uri in group.job.inputs.items():
        if is_folder(uri):
            continue
        group.report(beat=Beat(activity="fetching"))
        folder, source, note = group.inputs[field], open_storage(uri), _noting(group)
        with one_at_a_time(folder, waiting=partial(note, f"{uri} is being fetched")):
            written = _of_input(uri, field)
            local = folder / ARTIFACT
            if local.exists() and local.read_bytes() == written:
                continue
            fetch(source, wanted_files(_parsed(written, f"{uri}/{ARTIFACT}"), uri), folder, note)
            Files(folder).write(ARTIFACT, written)


def _noting(group: Group) -> Note:
    """Tells the agent every second, if it takes that long."""
    told = time.monotonic()

    def note(message: str) -> None:
        nonlocal told
        if time.monotonic() >= told + 1:
            told = time.monotonic()
            group.report(progress=Progress(message=message))

    return note


def read_artifact(path: Path, *kinds: str) -> dict[str, Any]:
    """The content of the artifact.json in folder `path`, which must be of one of these kinds."""
    file = path / ARTIFACT
    try:
        written = file.read_bytes()
    except FileNotFoundError:
        raise PermanentError(
            f"{file}: missing; the {' or '.join(kinds)} stage that makes it must come first, and succeed"
        ) from None
    return _parsed(written, str(file), kinds)


def settings_digest(group: Group) -> str:
    """SHA-256 of all that decides what the stage makes."""
    job = group.job
    told = {"kind": job.kind, "settings": job.settings, "seed": job.seed, "inputs": _inputs(group)}
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()


def _parsed(written: bytes, where: str, kinds: Sequence[str] = ()) -> dict[str, Any]:
    try:
        content: dict[str, Any] = json.loads(written)
    except ValueError as error:
        raise PermanentError(f"{where}: not JSON ({error}); delete the folder and run its stage again") from None
    if kinds and content.get("kind") not in kinds:
        wanted = " or ".join(kinds)
        raise PermanentError(f"{where}: kind: {content.get('kind')} where {wanted} is needed; name a {wanted} stage")
    return content


def _stored(group: Group) -> bytes | None:
    """The stage's artifact.json, if it is there."""
    try:
        return group.storage.read(ARTIFACT)
    except FileNotFoundError:
        return None


def _inputs(group: Group) -> dict[str, dict[str, str]]:
    return {
        field: {"uri": uri, "digest": hashlib.sha256(_of_input(uri, field)).hexdigest()}
        for field, uri in group.job.inputs.items()
    }


def _of_input(uri: str, field: str) -> bytes:
    """The artifact.json of an input."""
    try:
        return open_storage(uri).read(ARTIFACT)
    except FileNotFoundError:
        raise PermanentError(f"{field}: {uri}/{ARTIFACT} is missing; the stage that makes it must succeed") from None


def _announce(group: Group, written: bytes, metrics: dict[str, float]) -> Artifact:
    digest = hashlib.sha256(written).hexdigest()
    artifact = Artifact(uri=group.job.output_uri, digest=digest, metrics=metrics)
    group.report(artifact=artifact)
    return artifact


def _settled(group: Group, names: Iterable[Path | str]) -> Iterator[Known]:
    """The files that the stage made, each in storage by then."""
    for file in _all_files(group.output, names):
        known = _settle(file, file.relative_to(group.output).as_posix())
        if not is_folder(group.job.output_uri):
            _put(group, file, known)
        yield known


def _put(group: Group, file: Path, known: Known) -> None:
    """Put a file to storage. What arrives is what was digested: the client sends a checksum along."""
    if known.bytes >= _TOLD_BYTES:
        group.report(progress=Progress(message=f"putting {known.path} to {group.storage.uri}"))
    with open(file, "rb") as opened:
        if known.bytes:
            with mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as content, memoryview(content) as view:
                group.storage.write(known.path, view)
        else:
            group.storage.write(known.path, b"")
    if (size := group.storage.size(known.path)) != known.bytes:
        raise RetryableError(f"{group.storage.uri}/{known.path}: {size} bytes arrived where {known.bytes} were put")


def _all_files(root: Path, names: Iterable[Path | str]) -> list[Path]:
    found: set[Path] = set()
    for path in (root / name for name in names):
        if path.is_dir():
            found.update(each for each in path.rglob("*") if each.is_file())
        else:
            found.add(path)
    return sorted(found)


def _settle(file: Path, path: str) -> Known:
    """Size and SHA-256 of a file that is now surely on disk."""
    with open(file, "rb") as opened:
        digest = hashlib.file_digest(opened, "sha256").hexdigest()
        os.fsync(opened.fileno())
    return Known(path, file.stat().st_size, digest)
