"""Checkpoints as they lie in storage: where a run's or a path's are, and what each folder there is.

What is said here costs a look at the manifest and at the sizes of files. Only `verify` reads every byte.
"""

import argparse
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from urllib.parse import unquote, urlsplit

from trainyard_api.checkpoint import (
    FENCE,
    MANIFEST,
    REASON,
    BadCheckpointError,
    Manifest,
    read_manifest,
)
from trainyard_api.run import TrainingRun

from ..cluster.home import Home
from .get import selected
from .inputs import InputError
from .taking_up import made_by

State = Literal["committed", "bad", "being written", "left over"]

_NAME = re.compile(r"step-(?P<step>\d+)(?P<bad>\.bad)?(?:\.(?P<attempt>\w+)\.tmp)?")
FOLDER = "checkpoints"


@dataclass(frozen=True)
class Stored:
    """One folder among a stage's checkpoints."""

    path: Path
    stage: str
    step: int
    state: State
    reason: str = ""
    """What is wrong with a bad one."""
    attempt: int | None = None
    manifest: Manifest | None = None
    """None where it can't be read."""

    @property
    def bytes(self) -> int:
        """Of all its files."""
        return sum(file.stat().st_size for file in self.path.iterdir())

    def wire(self) -> dict[str, Any]:
        """For `-o json`."""
        known = self.manifest
        values = {
            "stage": self.stage,
            "step": self.step,
            "state": self.state,
            "reason": self.reason or None,
            "time": known.time if known else None,
            "attempt": self.attempt,
            "worldSize": known.world_size if known else None,
            "zeroStage": known.zero_stage if known else None,
            "bytes": self.bytes,
            "uri": self.path.as_uri(),
        }
        return {name: value for name, value in values.items() if value is not None}


@dataclass(frozen=True)
class Place:
    """A folder of checkpoints."""

    folder: Path
    stage: str
    run: tuple[str, str] | None
    """Namespace and name of the run in this home whose folder it is."""
    only: str | None = None
    """The one checkpoint that is meant, where a path names it."""

    def stored(self) -> list[Stored]:
        """What lies there, by step."""
        fence = self._fence()
        found = [
            _look(path, self.stage, name, fence)
            for path in self.folder.iterdir()
            if (name := _NAME.fullmatch(path.name)) and path.is_dir() and self.only in (None, path.name)
        ]
        return sorted(found, key=lambda each: (each.step, each.path.name))

    def committed(self) -> list[Stored]:
        """Those that training would look at, good or not, by step; or the one that is meant, whatever it is."""
        return [each for each in self.stored() if self.only or "." not in each.path.name]

    def _fence(self) -> int:
        try:
            return int((self.folder / FENCE).read_bytes() or 0)
        except (FileNotFoundError, ValueError):
            return 0


def places(options: argparse.Namespace) -> list[Place]:
    """Where the checkpoints are that the command line means; InputError if there are none."""
    home = Home(options.home)
    if "/" in options.run or Path(options.run).is_dir():
        if options.stage:
            raise InputError(f"--stage: goes with the name of a run; {options.run} is a path, which says it all")
        return [_place_of(home, path_of(options.run))]
    runs = selected(home, options.namespace, options.run)
    if len(runs) != 1:
        where = f"in {home.root}; use --home, or give the path of the checkpoints"
        several = ", ".join(run["metadata"]["namespace"] for run in runs)
        raise InputError(
            f"run {options.run}: in several namespaces ({several}); use --namespace"
            if runs
            else f"run {options.run}: not {where}"
        )
    run = TrainingRun.read_stored({**runs[0], "status": None})
    names = [stage.name for stage in run.spec.stages]
    if options.stage and options.stage not in names:
        raise InputError(f"--stage: run {options.run} has no stage {options.stage}; use one of {', '.join(names)}")
    found = [
        Place(folder, name, run.key)
        for name in names
        if options.stage in (None, name) and (folder := made_by(home, run) / name / FOLDER).is_dir()
    ]
    if not found:
        what = f"stage {options.stage} of run {options.run}" if options.stage else f"run {options.run}"
        raise InputError(f"{what}: has no checkpoints in {made_by(home, run)}; `trainyard get` says where the run is")
    return found


def path_of(text: str) -> Path:
    """The path that a path or a file:// URI means."""
    if text.startswith("file://"):
        return Path(unquote(urlsplit(text).path))
    if "://" in text:
        raise InputError(f"{text}: only paths and file:// URIs can be read from here; copy it to this machine first")
    return Path(text).absolute()


def _place_of(home: Home, path: Path) -> Place:
    """The place that a checkpoint, a folder of checkpoints or a stage's folder belongs to."""
    if not path.is_dir():
        raise InputError(f"{path}: no such folder; give one of checkpoints, or the name of a run")
    path = path.resolve()
    if (path / MANIFEST).exists() or _NAME.fullmatch(path.name):
        if not _NAME.fullmatch(path.name):
            raise InputError(f"{path}: a checkpoint's folder is called step-…; give it its name back")
        folder, only = path.parent, path.name
    else:
        folder, only = path / FOLDER if (path / FOLDER).is_dir() else path, None
    owners = (TrainingRun.read_stored({**run, "status": None}) for run in home.runs())
    owner = next((run.key for run in owners if folder.is_relative_to(made_by(home, run).resolve())), None)
    place = Place(folder, folder.parent.name if folder.name == FOLDER else "", owner, only)
    if not place.stored():
        raise InputError(f"{path}: no checkpoint is in it; give a folder that has step-… folders")
    return place


def _look(path: Path, stage: str, name: re.Match[str], fence: int) -> Stored:
    step, attempt = int(name["step"]), name["attempt"]
    if attempt is not None:
        current = attempt.isdecimal() and int(attempt) >= fence
        number = int(attempt) if attempt.isdecimal() else None
        return Stored(path, stage, step, "being written" if current else "left over", attempt=number)
    try:
        manifest = read_manifest(path)
    except BadCheckpointError as error:
        return Stored(path, stage, step, "bad", _reason(path) or str(error))
    reason = _reason(path) if name["bad"] else next(_wrong_sizes(path, manifest), "")
    return Stored(path, stage, step, "bad" if reason else "committed", reason, manifest.attempt, manifest)


def _reason(path: Path) -> str:
    """Why it was quarantined, if it was."""
    quarantined = path.name.endswith(".bad")
    file = path / REASON
    return (file.read_text().strip() if file.exists() else "no reason is on record") if quarantined else ""


def _wrong_sizes(path: Path, manifest: Manifest) -> Iterator[str]:
    for shard in manifest.shards:
        file = path / shard.file
        if not file.exists():
            yield f"{shard.file} is missing"
        elif (size := file.stat().st_size) != shard.bytes:
            yield f"{shard.file} has {size} bytes where {shard.bytes} were written"
