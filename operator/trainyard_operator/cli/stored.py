"""Checkpoints as they lie in storage: where a run's or a URI's are, and what each folder there is.

What is said here costs a look at the manifest and at the sizes of files. Only `verify` reads every byte.
"""

import argparse
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from urllib.parse import unquote, urlsplit

from trainyard_api.checkpoint import BadCheckpointError, Found, Manifest, Name, attempts, look, read_manifest
from trainyard_api.run import TrainingRun
from trainyard_api.storage import Files, Storage, open_storage

from ..cluster.home import Home
from .get import selected
from .inputs import InputError
from .taking_up import artifacts

State = Literal["committed", "bad", "void", "being written", "left over"]

FOLDER = "checkpoints"
_REQUESTS = 8
"""Under way at once."""


@dataclass(frozen=True)
class Stored:
    """One folder among a stage's checkpoints."""

    folder: Storage
    stage: str
    name: Name
    state: State
    counts: bool
    """Whether training would look at it; whether it is good is another question."""
    reason: str
    """What is wrong with a bad one, or why it is void."""
    bytes: int
    """Of all its files."""
    manifest: Manifest | None
    """None where it can't be read."""

    @property
    def where(self) -> str:
        return shown(self.folder)

    @property
    def held_out_loss(self) -> float | None:
        """Of its model, in nats per token, where it was measured."""
        return self.manifest.held_out_loss if self.manifest else None

    def wire(self) -> dict[str, Any]:
        """For `-o json`."""
        known = self.manifest
        values = {
            "stage": self.stage,
            "step": self.name.step,
            "state": self.state,
            "reason": self.reason or None,
            "time": known.time if known else None,
            "attempt": self.name.attempt,
            "worldSize": known.world_size if known else None,
            "zeroStage": known.zero_stage if known else None,
            "heldOutLoss": self.held_out_loss,
            "bytes": self.bytes,
            "uri": self.folder.uri,
        }
        return {name: value for name, value in values.items() if value is not None}


@dataclass(frozen=True)
class Place:
    """A folder of checkpoints."""

    folder: Storage
    stage: str
    run: tuple[str, str] | None
    """Namespace and name of the run in this home whose folder it is."""
    only: Name | None = None
    """The one checkpoint that is meant, where a URI names it."""

    @property
    def where(self) -> str:
        return shown(self.folder)

    @property
    def above(self) -> Storage:
        """The stage's folder, with artifact.json."""
        return open_storage(self.folder.uri.rpartition("/")[0])

    def stored(self) -> list[Stored]:
        """What lies there, by step."""
        found = [each for each in look(self.folder) if self.only in (None, each.name)]
        newest = max(attempts(self.folder), default=0)
        with ThreadPoolExecutor(_REQUESTS) as pool:
            return list(pool.map(lambda each: self._stored(each, newest), found))

    def counting(self) -> list[Stored]:
        """Those that training would look at, good or not, by step; or the one that is meant, whatever it is."""
        return [each for each in self.stored() if each.counts or self.only]

    def _stored(self, found: Found, newest_attempt: int) -> Stored:
        folder = self.folder.at(str(found.name))
        sizes = folder.sizes()
        state: State
        manifest, reason = None, found.reason
        if found.state == "unfinished":
            state = "being written" if found.name.attempt >= newest_attempt else "left over"
        else:
            state = found.state
            try:
                manifest = read_manifest(folder)
            except BadCheckpointError as error:
                state, reason = "bad", reason or str(error)
        if state == "committed" and manifest:
            reason = next(_wrong_sizes(manifest, sizes), "")
            state = "bad" if reason else state
        counts = found.state == "committed"
        return Stored(folder, self.stage, found.name, state, counts, reason, sum(sizes.values()), manifest)


def places(options: argparse.Namespace) -> list[Place]:
    """Where the checkpoints are that the command line means; InputError if there are none."""
    home = Home(options.home)
    if "/" in options.run or Path(options.run).is_dir():
        if options.stage:
            raise InputError(f"--stage: goes with the name of a run; {options.run} is a place, which says it all")
        return [_place_of(home, storage_of(options.run))]
    runs = selected(home, options.namespace, options.run)
    if len(runs) != 1:
        where = f"in {home.root}; use --home, or give the path or URI of the checkpoints"
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
    made = artifacts(home, run)
    found = [
        Place(made.at(f"{name}/{FOLDER}"), name, run.key)
        for name in names
        if options.stage in (None, name) and made.names(f"{name}/{FOLDER}")
    ]
    if not found:
        what = f"stage {options.stage} of run {options.run}" if options.stage else f"run {options.run}"
        raise InputError(f"{what}: has no checkpoints in {shown(made)}; `trainyard get` says where the run is")
    return found


def storage_of(text: str) -> Storage:
    """The place that a path or a URI means."""
    if "://" not in text:
        return Files(Path(text).resolve())
    if text.startswith("file://"):
        return Files(Path(unquote(urlsplit(text).path)).resolve())
    try:
        return open_storage(text)
    except ValueError as error:
        raise InputError(str(error)) from None


def shown(storage: Storage) -> str:
    """A path where it is one, else the URI."""
    return storage.uri.removeprefix("file://")


def _place_of(home: Home, storage: Storage) -> Place:
    """The place that a checkpoint, a folder of checkpoints or a stage's folder belongs to."""
    above, _, last = storage.uri.rpartition("/")
    only, folder = Name.read(last), storage
    if only:
        folder = open_storage(above)
    elif FOLDER in storage.names():
        folder = storage.at(FOLDER)
    *_, stage, last = folder.uri.split("/")
    owners = (TrainingRun.read_stored({**run, "status": None}) for run in home.runs())
    owner = next((run.key for run in owners if _lies_in(folder, artifacts(home, run))), None)
    place = Place(folder, stage if last == FOLDER else "", owner, only)
    if not place.stored():
        raise InputError(
            f"{shown(storage)}: no checkpoint is there; give a folder that has {Name(100, 1)} and the like, such a folder, "
            "or the name of a run"
        )
    return place


def _lies_in(storage: Storage, other: Storage) -> bool:
    if isinstance(storage, Files) and isinstance(other, Files):
        return storage.folder.resolve().is_relative_to(other.folder.resolve())
    return f"{storage.uri}/".startswith(f"{other.uri}/")


def _wrong_sizes(manifest: Manifest, sizes: dict[str, int]) -> Iterator[str]:
    for shard in manifest.shards:
        if shard.file not in sizes:
            yield f"{shard.file} is missing"
        elif (size := sizes[shard.file]) != shard.bytes:
            yield f"{shard.file} has {size} bytes where {shard.bytes} were written"
