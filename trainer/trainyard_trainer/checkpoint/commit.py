"""Committing a checkpoint, for one attempt at a time: all that is put beside the shards, and nothing that needs torch.

An attempt claims the checkpoints, decides where to begin, puts that on record, and looks again whether a newer one has
come. From its record on, an older attempt is refused at its next commit; what it commits in the instant between its look
and its manifest is void by the record (`trainyard_api.checkpoint`). Removing goes the other way: the manifest first.
"""

from contextlib import suppress

from trainyard_api.checkpoint import (
    MANIFEST,
    Attempt,
    Name,
    RolledBack,
    attempt_path,
    attempts,
    held_out_loss,
    look,
    read_attempt,
    written_by,
)
from trainyard_api.retention import best_steps, prunable
from trainyard_api.storage import Storage


class FencedError(Exception):
    """A newer attempt has begun; str(e) says which."""


def claim(checkpoints: Storage, attempt: int, run_uid: str) -> Attempt:
    """Refuse an attempt that is over, and number it: counted on from an earlier run of the same name, if there was one."""
    after = newest = max(attempts(checkpoints), default=0)
    last = read_attempt(checkpoints, newest) if newest else None
    if last and last.run_uid == run_uid:
        after = last.after
    rolled_back = last.rolled_back if last else None
    claimed = Attempt(attempt=after + attempt, after=after, run_uid=run_uid, resumed_step=0, rolled_back=rolled_back)
    refuse_if_older(checkpoints, claimed.attempt, f"attempt {claimed.attempt} is over")
    return claimed


def begin(checkpoints: Storage, record: Attempt) -> None:
    """Put on record where an attempt begins, and clear away what attempts before it have left that doesn't count."""
    checkpoints.write(attempt_path(record.attempt), record.model_dump_json(by_alias=True).encode())
    refuse_if_older(checkpoints, record.attempt, f"attempt {record.attempt} is over")
    for found in look(checkpoints):
        if found.state in ("unfinished", "void") and found.name.attempt < record.attempt:
            with suppress(OSError):  # a writer that isn't dead yet may be at it, and it does no harm
                remove(checkpoints, found.name)
    with suppress(OSError):  # nobody sees it: it only takes room
        checkpoints.tidy(lambda path: (by := written_by(path)) is not None and by < record.attempt)


def roll_back(checkpoints: Storage, record: Attempt, to: RolledBack) -> None:
    """Put on record that an attempt ends in a roll-back: with that it is one, whatever happens to those who wrote it."""
    refuse_if_older(checkpoints, record.attempt, f"attempt {record.attempt} is over")
    ended = record.model_copy(update={"rolled_back": to})
    checkpoints.write(attempt_path(record.attempt), ended.model_dump_json(by_alias=True).encode())


def to_step(checkpoints: Storage, record: Attempt) -> int | None:
    """The newest step that an attempt may begin with, if the one before it ended in a roll-back."""
    newest, back = max(attempts(checkpoints), default=0), record.rolled_back
    return back.to_step if back and back.attempt == newest else None


def commit(
    checkpoints: Storage, name: Name, manifest: bytes, keep: int, keep_every: int | None, keep_best: int | None
) -> None:
    """Make a checkpoint of a folder that has every shard. Then prune."""
    refuse_if_older(checkpoints, name.attempt, f"attempt {name.attempt} saves nothing any more")
    checkpoints.write(f"{name}/{MANIFEST}", manifest)
    with suppress(OSError):  # the checkpoint is committed all the same, and the next commit prunes again
        prune(checkpoints, keep, keep_every, keep_best)


def prune(checkpoints: Storage, keep: int, keep_every: int | None, keep_best: int | None) -> None:
    """Remove the checkpoints that need not be kept, and bad ones that are older than all that are."""
    found = look(checkpoints)
    committed = [each.name for each in found if each.state == "committed"]
    steps = {name.step for name in committed}
    losses = {name.step: held_out_loss(checkpoints, name) for name in committed} if keep_best else {}
    gone = set(prunable(steps, keep, keep_every, best_steps(losses, keep_best or 0)))
    oldest = min(steps - gone, default=0)
    for each in found:
        if each.name.step in gone if each.state == "committed" else each.state == "bad" and each.name.step < oldest:
            remove(checkpoints, each.name)


def remove(checkpoints: Storage, name: Name) -> None:
    """Delete a checkpoint such that no half of it can be taken for one."""
    checkpoints.remove(f"{name}/{MANIFEST}")
    checkpoints.remove(str(name))


def refuse_if_older(checkpoints: Storage, attempt: int, so: str) -> None:
    """FencedError if a newer attempt has begun."""
    newest = max(attempts(checkpoints), default=0)
    if newest > attempt:
        raise FencedError(f"attempt {newest} has begun; {so}")
