"""The memory tier: snapshots that outlive their ranks, and are restored from before any checkpoint in storage.

The agent owns the memory of its ranks' snapshots, two slots each, and holds a copy of what the worker before it has; it
hands all that is whole to the ranks of the next attempt. So state survives the death of ranks, and of a whole worker.
This file decides what of it is used:

    newest      what ranks begin with: the newest step of which every rank's shard is whole in some agent's memory, unless
                storage has a newer checkpoint. After a roll-back, of those that are old enough
    room        whether there is memory for snapshots at all, for every worker the same
"""

import errno
import json
import os
import urllib.request
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPException
from time import monotonic

from trainyard_api.checkpoint import Manifest
from trainyard_api.names import AGENT_PORT
from trainyard_api.protocol import SnapshotState
from trainyard_api.status import RestoredFrom

from ..credentials import token, trust
from ..engine.processes import gather
from ..errors import setting
from ..group import Group
from ..held import Held
from .store import Checkpoints
from .tensors import Shards, Stored

_SECONDS = 10.0
"""For another agent to answer, each time."""
_SLOTS = 2
_COPIES = 1
"""Of the worker before. Where there is room for two, the one that is whole stays until the next one has come."""


class Neighbourhood:
    """This rank's agent, and where the others of its group are."""

    def __init__(self, group: Group, environment: Mapping[str, str] = os.environ) -> None:
        self.group = group
        self.ranks_per_worker = int(environment.get("LOCAL_WORLD_SIZE", 1))
        self.worker = group.rank // self.ranks_per_worker
        self.workers = group.world_size // self.ranks_per_worker
        self.slots = [int(each) for each in environment.get("TRAINYARD_SNAPSHOT_FDS", "").split(",") if each]
        """Descriptors of the memory that the agent gives this rank."""
        self.held = [Held(**each) for each in json.loads(environment.get("TRAINYARD_SNAPSHOTS", "[]"))]
        self._addresses: list[str] = json.loads(environment.get("TRAINYARD_ADDRESSES", "[]"))

    def url(self, worker: int, rank: int, step: int) -> str:
        """Where a worker's agent has a rank's shard of a step, or gets it from this attempt."""
        address = self._addresses[worker]
        scheme = "https" if trust() else "http"
        return f"{scheme}://{address}:{AGENT_PORT}/snapshots/{rank}?step={step}&attempt={self.group.attempt}"

    def slot_of(self, held: Held | None) -> int | None:
        """The slot of this rank that holds it; None for what lies elsewhere."""
        return next((n for n, fd in enumerate(self.slots) if held and os.path.sameopenfile(fd, held.fd)), None)

    def tell(self, slot: int, step: int, shard_bytes: int) -> None:
        """Tell the agent that a slot holds this rank's whole shard of a step; with no bytes, that it holds none."""
        said = SnapshotState(rank=self.group.rank, step=step, attempt=self.group.attempt, bytes=shard_bytes, slot=slot)
        self.group.report(snapshot=said)


@dataclass
class Found:
    """What ranks begin with."""

    manifest: Manifest
    shards: Shards
    source: RestoredFrom
    bytes: int
    kept: int | None = None
    """This rank's slot that holds its shard of it."""
    seconds: float = 0.0
    """That it has taken so far to find and to read it."""

    @contextmanager
    def timed(self) -> Iterator[None]:
        """Count what the block takes as restoring."""
        started = monotonic()
        yield
        self.seconds += monotonic() - started


def newest(checkpoints: Checkpoints, here: Neighbourhood) -> Found | None:
    """The newest state there is, whole in memory or good in storage; None if there is none. A collective."""
    started = monotonic()
    where = _whole_somewhere(here, checkpoints)
    stored = checkpoints.newest(newer_than=where.step if where else None)
    found = None
    if not stored and where and not (found := _from_memory(where, here)):
        stored = checkpoints.newest()
    if stored:
        manifest, shards = stored
        found = Found(manifest, shards, "storage", sum(shard.bytes for shard in manifest.shards))
    if found:
        found.seconds = monotonic() - started
    return found


@dataclass(frozen=True)
class _Whole:
    """A step of which every rank's shard is whole in some agent's memory."""

    step: int
    attempt: int
    shards: list[tuple[int, set[int]]]
    """By rank, its size and the workers whose agents hold it."""


def _whole_somewhere(here: Neighbourhood, checkpoints: Checkpoints) -> _Whole | None:
    """The newest such step that counts."""
    mine = []
    if not here.group.local_rank:  # the others hold the same
        mine = [(each, json.loads(Shards([each.content()]).training)["worldSize"]) for each in here.held]
    holders: dict[tuple[int, int, int], dict[int, set[int]]] = defaultdict(lambda: defaultdict(set))
    sizes: dict[tuple[int, int, int], dict[int, int]] = defaultdict(dict)
    for rank, theirs in enumerate(gather(mine)):
        for held, world_size in theirs:
            key = held.step, held.attempt, world_size
            holders[key][held.rank].add(rank // here.ranks_per_worker)
            sizes[key][held.rank] = held.bytes
    whole = [
        _Whole(step, attempt, [(sizes[step, attempt, count][rank], by_rank[rank]) for rank in range(count)])
        for (step, attempt, count), by_rank in holders.items()
        if by_rank.keys() >= set(range(count))
    ]
    names = {checkpoints.name(each.step, each.attempt): each for each in whole}
    for name in checkpoints.void(list(names)):
        del names[name]
    counting = [each for name, each in names.items() if not checkpoints.too_new(name.step)]
    return max(counting, key=lambda each: (each.step, each.attempt), default=None)


def _from_memory(whole: _Whole, here: Neighbourhood) -> Found | None:
    """The shards: those that this agent holds as they are, the others by ranges. None if a rank can't reach one of them."""
    mine = {each.rank: each for each in here.held if (each.step, each.attempt) == (whole.step, whole.attempt)}
    shards, mistake = None, ""
    try:
        shards = Shards(
            [
                mine[rank].content()
                if rank in mine
                else Stored(_Elsewhere(here.url(min(workers), rank, whole.step)), "", size)
                for rank, (size, workers) in enumerate(whole.shards)
            ]
        )
    except (OSError, HTTPException) as error:
        mistake = str(error)
    if any(gather(mistake)) or not shards:
        return None
    uid = here.group.job.run_uid
    now_known = {"step": whole.step, "attempt": whole.attempt, "time": "", "runUid": uid, "shards": []}
    manifest = Manifest.model_validate(json.loads(shards.training) | now_known)
    size = sum(size for size, _ in whole.shards)
    return Found(manifest, shards, "memory", size, kept=here.slot_of(mine.get(here.group.rank)))


@dataclass(frozen=True)
class _Elsewhere:
    """A shard that another agent holds."""

    url: str

    def read_range(self, path: str, start: int, stop: int) -> bytes:
        """Bytes [start, stop) of it; there is nothing else, so `path` is empty."""
        headers = {"Authorization": f"Bearer {token()}", "Range": f"bytes={start}-{stop - 1}"}
        request = urllib.request.Request(self.url + path, headers=headers)  # noqa: S310 - HTTP it is
        with urllib.request.urlopen(request, timeout=_SECONDS, context=trust()) as answer:  # noqa: S310
            content: bytes = answer.read()
        if len(content) != stop - start:
            raise OSError(errno.EIO, f"{len(content)} bytes came of {stop - start}", self.url)
        return content


@dataclass(frozen=True)
class Room:
    """The memory that a rank's snapshots have."""

    memories: list[int]
    """Descriptors, one a slot."""
    outlives: bool
    """Whether the agent keeps them; else there is one slot, which is gone with the rank."""
    trouble: str = ""


def room(neighbourhood: Neighbourhood, shard_bytes: int) -> Room:
    """The memory for this rank's snapshots of `shard_bytes`, such that every worker's fit its budget, or are kept nowhere.

    A collective, after which no rank reads from memory any more what it began with: slots may be overwritten.
    """
    sizes, each = gather(shard_bytes), neighbourhood.ranks_per_worker
    workers = [sum(sizes[first : first + each]) for first in range(0, len(sizes), each)]
    copies = _COPIES if len(workers) > 1 else 0
    needed = max(_SLOTS * own + copies * workers[worker - 1] for worker, own in enumerate(workers))
    budget = neighbourhood.group.job.memory_budget
    if neighbourhood.slots and needed <= budget:
        return Room(neighbourhood.slots, outlives=True)
    for slot, memory in enumerate(neighbourhood.slots):  # what an attempt with more room has left there
        neighbourhood.tell(slot, step=0, shard_bytes=0)
        os.ftruncate(memory, 0)
    alone = os.memfd_create("trainyard-checkpoint", os.MFD_CLOEXEC)
    if not neighbourhood.slots or not budget:
        return Room([alone], outlives=False)
    trouble = (
        f"no snapshot outlives its rank: they need {needed / 1e6:,.0f} MB of a worker's memory, and "
        f"{budget / 1e6:,.0f} MB are allowed; raise {setting('checkpoint.memoryBudget')} or resources.memory"
    )
    return Room([alone], outlives=False, trouble=trouble)
