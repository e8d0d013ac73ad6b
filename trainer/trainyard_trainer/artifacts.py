"""What a stage leaves behind: files in its folder, and artifact.json, whose presence says that they are whole.

The artifact is committed by one rename, after everything it names is on disk, and never changes afterwards. It records
a digest of all that the stage was told (kind, settings, seed, inputs): finding the same digest, a stage that is started
again is already done; finding another, it refuses to overwrite.
"""

import hashlib
import json
import math
import os
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path
from typing import Any

from trainyard_api.protocol import Artifact

from .errors import PermanentError
from .group import Group

ARTIFACT = "artifact.json"


def write_artifact(
    group: Group, *, metrics: dict[str, float], files: Iterable[Path | str], details: dict[str, Any]
) -> Artifact:
    """Commit what the stage made, and report it. For rank 0, when every rank has written its part.

    `files` are files, or folders taken with all that is in them, in the stage's folder; they are digested here and
    synced to disk. `details` is what readers of this kind of artifact need to open it.
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
        "files": {str(each.relative_to(group.output)): _settle(each) for each in _all_files(group.output, files)},
        "metrics": metrics,
        "details": details,
    }
    replace_file(group.output / ARTIFACT, json.dumps(content, indent=2, allow_nan=False).encode() + b"\n")
    return _announce(group, metrics)


def finished_artifact(group: Group) -> Artifact | None:
    """The artifact of an earlier attempt at the same job, reported again; None if there is none."""
    if not (group.output / ARTIFACT).exists():
        return None
    there = read_artifact(group.output, group.job.kind)
    if there["settingsDigest"] != settings_digest(group):
        raise PermanentError(
            f"{group.output} holds an artifact that run {there['run']} made with other settings or inputs, and "
            "artifacts never change; give the run or the stage another name, or delete that folder"
        )
    return _announce(group, there["metrics"])


def sources_may_have_changed(group: Group) -> bool:
    """Whether there is an artifact that an earlier run of this name made from files that no artifact vouches for.

    The stage itself then looks at the files again. Within one run they are what they were when it began.
    """
    if group.job.kind != "prepare" or not (group.output / ARTIFACT).exists():
        return False
    return bool(read_artifact(group.output, group.job.kind)["runUid"] != group.job.run_uid)


def read_artifact(path: Path, kind: str) -> dict[str, Any]:
    """The content of the artifact.json in folder `path`, which must be of `kind`."""
    file = path / ARTIFACT
    try:
        content: dict[str, Any] = json.loads(file.read_bytes())
    except FileNotFoundError:
        raise PermanentError(f"{file}: missing; the {kind} stage that makes it must come first, and succeed") from None
    except ValueError as error:
        raise PermanentError(f"{file}: not JSON ({error}); delete the folder and run its stage again") from None
    if content.get("kind") != kind:
        raise PermanentError(f"{file}: kind: {content.get('kind')} where {kind} is needed; name a {kind} stage")
    return content


def settings_digest(group: Group) -> str:
    """SHA-256 of all that decides what the stage makes."""
    job = group.job
    told = {"kind": job.kind, "settings": job.settings, "seed": job.seed, "inputs": _inputs(group)}
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()


def replace_file(path: Path, content: bytes) -> None:
    """Put `content` at `path` such that any crash leaves the file before or the file after, whole."""
    temporary = path.with_name(f"{path.name}.tmp")
    with open(temporary, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
    sync_folder(path.parent)


def sync_folder(path: Path) -> None:
    """Make renames and new names in the folder last."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _inputs(group: Group) -> dict[str, dict[str, str]]:
    return {
        field: {"uri": group.job.inputs[field], "digest": _digest_of_artifact(folder, field)}
        for field, folder in group.inputs.items()
    }


def _digest_of_artifact(folder: Path, field: str) -> str:
    try:
        return hashlib.sha256((folder / ARTIFACT).read_bytes()).hexdigest()
    except FileNotFoundError:
        raise PermanentError(f"{field}: {folder / ARTIFACT} is missing; the stage that makes it must succeed") from None


def _announce(group: Group, metrics: dict[str, float]) -> Artifact:
    digest = hashlib.sha256((group.output / ARTIFACT).read_bytes()).hexdigest()
    artifact = Artifact(uri=group.job.output_uri, digest=digest, metrics=metrics)
    group.report(artifact=artifact)
    return artifact


def _all_files(root: Path, names: Iterable[Path | str]) -> list[Path]:
    found: set[Path] = set()
    for path in (root / name for name in names):
        if path.is_dir():
            found.update(each for each in path.rglob("*") if each.is_file())
        else:
            found.add(path)
    return sorted(found)


def _settle(path: Path) -> dict[str, Any]:
    """Size and SHA-256 of a file that is now surely on disk."""
    with open(path, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        os.fsync(file.fileno())
    return {"bytes": path.stat().st_size, "sha256": digest}
