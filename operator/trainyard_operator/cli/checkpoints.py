"""`trainyard checkpoints ls|show|verify|copy|prune RUN|URI`: what training has saved, on this machine or in an object
store, without a trainer or a cluster.
"""

import argparse
import contextlib
import json
import mmap
import sys
import tempfile
from collections.abc import Iterable

from trainyard_api.checkpoint import (
    BAD as BAD_FILE,
)
from trainyard_api.checkpoint import (
    MANIFEST,
    BadCheckpointError,
    Manifest,
    Name,
    Shard,
    attempts,
    read_manifest,
    read_shard,
    verify_shard,
)
from trainyard_api.retention import best_steps, prunable
from trainyard_api.storage import Storage

from ..cluster.home import HeldError, Home
from . import words
from .inputs import InputError
from .stored import Place, Stored, places, shown, storage_of

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
    rows = [("STAGE", "STEP", "TIME", "ATTEMPT", "WORLD", "ZERO", "HELD-OUT", "SIZE", "STATE")]
    for each in stored:
        known = each.manifest
        rows.append(
            (
                each.stage,
                str(each.name.step),
                known.time.partition(".")[0] if known else "",
                str(each.name.attempt),
                str(known.world_size) if known else "",
                str(known.zero_stage) if known else "",
                f"{each.held_out_loss:.4f}" if each.held_out_loss is not None else "",
                words.size(each.bytes),
                f"{each.state}: {each.reason}" if each.reason else each.state,
            )
        )
    print(*words.table(rows), sep="\n")
    return GOOD


def _show(options: argparse.Namespace) -> int:
    found = _one(options)
    if found.manifest is None:
        print(f"{found.where}: {found.state}{': ' if found.reason else ''}{found.reason}", file=sys.stderr)
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
        "checkpoint": found.folder.uri,
        "state": f"{found.state}: {found.reason}" if found.reason else found.state,
        "step": f"{manifest.step}",
        "time": manifest.time,
        "written by": f"attempt {manifest.attempt}, {manifest.world_size} ranks, ZeRO {manifest.zero_stage}",
        "data": f"positions 0 to {sequences - 1:,} of seed {cursor.seed} are done: {manifest.step:,} global batches of "
        f"{cursor.global_batch:,} × {cursor.sequence_length:,} tokens",
        **({"held-out loss": f"{found.held_out_loss:.4f}"} if found.held_out_loss is not None else {}),
        **{
            f"corpus {number}" if cursor.parts[1:] else "corpus": f"weight {part.weight}, artifact {part.digest}"
            for number, part in enumerate(cursor.parts)
        },
        "settings": manifest.settings_digest,
    }
    yield from (f"{name + ':':<14} {value}" for name, value in facts.items())
    yield f"shards: {len(manifest.shards)}, {words.size(sum(shard.bytes for shard in manifest.shards))}"
    yield from words.table(
        [("", each.file, words.size(each.bytes), f"sha256 {each.sha256}") for each in manifest.shards]
    )
    yield f"parameters: {len(manifest.parameters)}, {elements:,} elements"
    yield from words.table([("", name, " × ".join(map(str, shape))) for name, shape in manifest.parameters.items()])


def _verify(options: argparse.Namespace) -> int:
    chosen = [each for place in places(options) for each in place.counting() if options.step in (None, each.name.step)]
    if not chosen:
        raise InputError(_no_such(options))
    bad = 0
    for each in chosen:
        try:
            manifest = _verified(each.folder, read_manifest(each.folder))
        except BadCheckpointError as error:
            print(f"{each.where}: bad: {error}; a run that resumes takes the one before", flush=True)
            bad += 1
        else:
            shards = manifest.shards
            print(f"{each.where}: good: {len(shards)} shards, {words.size(sum(it.bytes for it in shards))}", flush=True)
    return BAD if bad else GOOD


def _verified(checkpoint: Storage, manifest: Manifest) -> Manifest:
    """The manifest, after reading every byte that it lists; says how far it is, on a terminal in one line."""
    inplace = sys.stderr.isatty()
    for number, shard in enumerate(manifest.shards, 1):
        name = checkpoint.uri.rpartition("/")[2]
        text = f"{name}: {number}/{len(manifest.shards)} {shard.file} ({words.size(shard.bytes)})"
        print(text, end="\r" if inplace else "\n", file=sys.stderr, flush=True)
        verify_shard(checkpoint, shard)
    if inplace:
        print("\033[K", end="", file=sys.stderr, flush=True)
    return manifest


def _copy(options: argparse.Namespace) -> int:
    """All or nothing: a copy that is interrupted, or that turns out bad, has no manifest, so it is no checkpoint.

    Where attempts have begun it is put under the newest one's number, for else it might be void there.
    """
    found, there = _one(options), storage_of(options.destination)
    name = Name(found.name.step, max([found.name.attempt, *attempts(there)]))
    copy = there.at(str(name))
    if copy.names():
        raise InputError(f"{shown(copy)}: exists already; copy to another folder, or delete it first")
    try:
        manifest = read_manifest(found.folder)
        for shard in manifest.shards:
            _copy_shard(found.folder, copy, shard)
        for file in set(found.folder.names()) - {MANIFEST, BAD_FILE, *(shard.file for shard in manifest.shards)}:
            copy.write(file, found.folder.read(file))
        _verified(copy, manifest)
        copy.write(MANIFEST, found.folder.read(MANIFEST))
    except BadCheckpointError as error:
        there.remove(str(name))
        print(f"{found.where}: bad: {error}; nothing was copied; choose another one by --step", file=sys.stderr)
        return BAD
    except BaseException:
        with contextlib.suppress(OSError):
            there.remove(str(name))
        raise
    print(f"{shown(copy)}: good: {words.size(sum(shard.bytes for shard in manifest.shards))} copied and verified")
    return GOOD


def _copy_shard(source: Storage, copy: Storage, shard: Shard) -> None:
    """Through a file that has no name, for a shard may be larger than the memory of this machine."""
    with tempfile.TemporaryFile() as file:
        file.truncate(shard.bytes)
        content = read_shard(source, shard, memoryview(mmap.mmap(file.fileno(), shard.bytes)))
        copy.write(shard.file, content)


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
            code = max(code, _prune_place(place, options.keep, options.every, options.best))
    return code


def _prune_place(place: Place, keep: int, keep_every: int | None, keep_best: int) -> int:
    stored = place.stored()
    counting = [each for each in stored if each.counts]
    good = _newest_good(counting)
    if good is None:
        why = "`trainyard checkpoints verify` says why"
        print(f"{place.where}: no checkpoint in it is good, so none is deleted; {why}", file=sys.stderr)
        return BAD
    losses = {each.name.step: each.held_out_loss for each in counting}
    spare = set(prunable(losses, keep, keep_every, best_steps(losses, keep_best)))
    published = _published(place)
    for each in stored:
        outdated = each.name.step in spare if each.counts else each.name < good.name and each.state != "being written"
        if not (outdated or each.state in ("void", "left over")):
            continue
        if each == good or each.folder.uri == published:
            why = "the newest good one" if each == good else f"what {shown(place.above)}/artifact.json names"
            print(f"{each.where}: kept: {why}")
            continue
        each.folder.remove(MANIFEST)  # no half of it can be taken for a checkpoint
        place.folder.remove(str(each.name))
        print(f"{each.where}: deleted: {words.size(each.bytes)}")
    print(f"{place.where}: {len(place.counting())} kept, the newest good one is of step {good.name.step}")
    return GOOD


def _newest_good(stored: list[Stored]) -> Stored | None:
    for each in reversed(stored):
        with contextlib.suppress(BadCheckpointError):
            _verified(each.folder, read_manifest(each.folder))
            return each
    return None


def _published(place: Place) -> str | None:
    """The URI of the checkpoint that the stage's artifact names, if the stage is done."""
    try:
        artifact = json.loads(place.above.read("artifact.json"))
    except FileNotFoundError:
        return None
    return place.above.at(artifact["details"].get("checkpoint", "")).uri


def _one(options: argparse.Namespace) -> Stored:
    """The checkpoint that is meant: of --step, else the newest."""
    found = places(options)
    if len(found) > 1:
        raise InputError(f"--stage: say which: {', '.join(place.stage for place in found)}")
    [place] = found
    chosen = [each for each in place.counting() if options.step in (None, each.name.step)]
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
