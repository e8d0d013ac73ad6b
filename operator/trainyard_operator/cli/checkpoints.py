"""`trainyard checkpoints ls|show|verify|copy|prune RUN|PATH`: what training has saved, without a trainer or a cluster."""

import argparse
import contextlib
import json
import os
import shutil
import sys
from collections.abc import Iterable
from pathlib import Path

from trainyard_api.checkpoint import MANIFEST, BadCheckpointError, Manifest, read_manifest, verify_shard
from trainyard_api.retention import prunable

from ..cluster.home import HeldError, Home
from . import words
from .inputs import InputError
from .stored import Place, Stored, path_of, places

GOOD, BAD, BAD_INPUT = 0, 1, 2


def checkpoints_command(options: argparse.Namespace) -> int:
    """Do one of the five. 0: done and good; 1: a checkpoint is bad; 2: the command can't be carried out as given."""
    commands = {"ls": _ls, "show": _show, "verify": _verify, "copy": _copy, "prune": _prune}
    try:
        return commands[options.action](options)
    except InputError as error:
        print(*error.mistakes, sep="\n", file=sys.stderr)
    except OSError as error:
        gone = isinstance(error, FileNotFoundError)
        remedy = "training may have pruned it meanwhile; try again" if gone else "see to it that you may use it"
        print(f"{error.filename}: {error.strerror}; {remedy}", file=sys.stderr)
    return BAD_INPUT


def _ls(options: argparse.Namespace) -> int:
    stored = [each for place in places(options) for each in place.stored()]
    if options.output == "json":
        print(json.dumps([each.wire() for each in stored], indent=2))
        return GOOD
    rows = [("STAGE", "STEP", "TIME", "ATTEMPT", "WORLD", "ZERO", "SIZE", "STATE")]
    for each in stored:
        known = each.manifest
        rows.append(
            (
                each.stage,
                str(each.step),
                known.time.partition(".")[0] if known else "",
                "" if each.attempt is None else str(each.attempt),
                str(known.world_size) if known else "",
                str(known.zero_stage) if known else "",
                words.size(each.bytes),
                f"{each.state}: {each.reason}" if each.reason else each.state,
            )
        )
    print(*words.table(rows), sep="\n")
    return GOOD


def _show(options: argparse.Namespace) -> int:
    found = _one(options)
    if found.manifest is None:
        print(f"{found.path}: {found.reason}", file=sys.stderr)
        return BAD
    if options.output == "json":
        print(json.dumps(found.manifest.model_dump(by_alias=True), indent=2))
    else:
        print(*_description(found, found.manifest), sep="\n")
    return GOOD


def _description(found: Stored, manifest: Manifest) -> Iterable[str]:
    cursor = manifest.cursor
    sequences = manifest.step * cursor.global_batch
    elements = sum(_count(shape) for shape in manifest.parameters.values())
    facts = {
        "checkpoint": found.path.as_uri(),
        "state": f"{found.state}: {found.reason}" if found.reason else found.state,
        "step": f"{manifest.step}",
        "time": manifest.time,
        "written by": f"attempt {manifest.attempt}, {manifest.world_size} ranks, ZeRO {manifest.zero_stage}",
        "data": f"positions 0 to {sequences - 1:,} of seed {cursor.seed} are done: {manifest.step:,} global batches of "
        f"{cursor.global_batch:,} × {cursor.sequence_length:,} tokens",
        **{
            f"corpus {number}" if cursor.parts[1:] else "corpus": f"weight {part.weight}, artifact {part.digest}"
            for number, part in enumerate(cursor.parts)
        },
        "settings": manifest.settings_digest,
    }
    yield from (f"{name + ':':<13} {value}" for name, value in facts.items())
    yield f"shards: {len(manifest.shards)}, {words.size(sum(shard.bytes for shard in manifest.shards))}"
    yield from words.table(
        [("", each.file, words.size(each.bytes), f"sha256 {each.sha256}") for each in manifest.shards]
    )
    yield f"parameters: {len(manifest.parameters)}, {elements:,} elements"
    yield from words.table([("", name, " × ".join(map(str, shape))) for name, shape in manifest.parameters.items()])


def _verify(options: argparse.Namespace) -> int:
    chosen = [each for place in places(options) for each in place.committed() if options.step in (None, each.step)]
    if not chosen:
        raise InputError(_no_such(options))
    bad = 0
    for each in chosen:
        try:
            manifest = _verified(each.path)
        except BadCheckpointError as error:
            print(f"{each.path}: bad: {error}; a run that resumes sets it aside and takes the one before", flush=True)
            bad += 1
        else:
            shards = manifest.shards
            print(f"{each.path}: good: {len(shards)} shards, {words.size(sum(it.bytes for it in shards))}", flush=True)
    return BAD if bad else GOOD


def _verified(checkpoint: Path) -> Manifest:
    """The manifest, after reading every byte that it lists; says how far it is, on a terminal in one line."""
    manifest = read_manifest(checkpoint)
    inplace = sys.stderr.isatty()
    for number, shard in enumerate(manifest.shards, 1):
        text = f"{checkpoint.name}: {number}/{len(manifest.shards)} {shard.file} ({words.size(shard.bytes)})"
        print(text, end="\r" if inplace else "\n", file=sys.stderr, flush=True)
        verify_shard(checkpoint, shard)
    if inplace:
        print("\033[K", end="", file=sys.stderr, flush=True)
    return manifest


def _copy(options: argparse.Namespace) -> int:
    """All or nothing: a copy that is interrupted, or that turns out bad, has no name that training would read."""
    found, folder = _one(options), path_of(options.destination)
    final = folder / found.path.name
    if final.exists():
        raise InputError(f"{final}: exists already; copy to another folder, or delete it first")
    folder.mkdir(parents=True, exist_ok=True)
    temporary = folder / f"{found.path.name}.copy{os.getpid()}.tmp"
    try:
        manifest = _verified(found.path)
        temporary.mkdir()
        for name in [*(shard.file for shard in manifest.shards), MANIFEST]:
            shutil.copyfile(found.path / name, temporary / name)
            _sync(temporary / name)
        if _verified(temporary) != manifest:
            raise BadCheckpointError(f"{MANIFEST} changed while it was copied")
        _sync(temporary)
        temporary.rename(final)
        _sync(folder)
    except BadCheckpointError as error:
        print(f"{found.path}: bad: {error}; nothing was copied; choose another one by --step", file=sys.stderr)
        return BAD
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    print(f"{final}: good: {words.size(sum(shard.bytes for shard in manifest.shards))} copied and verified")
    return GOOD


def _prune(options: argparse.Namespace) -> int:
    code = GOOD
    for place in places(options):
        if place.only:
            raise InputError(f"{options.run}: is one checkpoint; give the folder that it is in, to choose among all")
        with contextlib.ExitStack() as stack:
            if place.run:
                try:
                    stack.enter_context(Home(options.home).held(*place.run))
                except HeldError as holder:
                    raise InputError(
                        f"run {place.run[1]} is driven by {holder}, which prunes by itself (checkpoint.keep); stop it first"
                    ) from None
            code = max(code, _prune_place(place, options.keep, options.every))
    return code


def _prune_place(place: Place, keep: int, keep_every: int | None) -> int:
    stored = {each.step: each for each in place.committed()}
    doomed = prunable(stored, keep, keep_every)
    good = _newest_good(stored)
    if good is None:
        why = "`trainyard checkpoints verify` says why"
        print(f"{place.folder}: no checkpoint in it is good, so none is deleted; {why}", file=sys.stderr)
        return BAD
    published = _published(place.folder)
    for step in doomed:
        path = stored[step].path
        if step == good or path == published:
            why = "the newest good one" if step == good else f"what {published.parent.parent / 'artifact.json'} names"
            print(f"{path}: kept: {why}")
            continue
        size = words.size(stored[step].bytes)
        away = path.with_name(f"{path.name}.old.tmp")
        path.rename(away)  # no half of it can be taken for a checkpoint
        shutil.rmtree(away)
        print(f"{path}: deleted: {size}")
    print(f"{place.folder}: {len(place.committed())} kept, the newest good one is of step {good}")
    return GOOD


def _newest_good(stored: dict[int, Stored]) -> int | None:
    for step in sorted(stored, reverse=True):
        with contextlib.suppress(BadCheckpointError):
            _verified(stored[step].path)
            return step
    return None


def _published(folder: Path) -> Path:
    """The checkpoint that the stage's artifact names; a path that isn't there if the stage is not done."""
    artifact = folder.parent / "artifact.json"
    name = json.loads(artifact.read_bytes())["details"].get("checkpoint", "") if artifact.exists() else ""
    return folder.parent / name


def _one(options: argparse.Namespace) -> Stored:
    """The checkpoint that is meant: of --step, else the newest."""
    found = places(options)
    if len(found) > 1:
        raise InputError(f"--stage: say which: {', '.join(place.stage for place in found)}")
    [place] = found
    chosen = [each for each in place.committed() if options.step in (None, each.step)]
    if not chosen:
        raise InputError(_no_such(options))
    return chosen[-1]


def _no_such(options: argparse.Namespace) -> str:
    which = "committed checkpoint" if options.step is None else f"committed checkpoint of step {options.step}"
    return f"{options.run}: no {which}; `trainyard checkpoints ls {options.run}` shows what there is"


def _count(shape: list[int]) -> int:
    elements = 1
    for length in shape:
        elements *= length
    return elements


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
