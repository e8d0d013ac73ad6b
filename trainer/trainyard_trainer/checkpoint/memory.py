"""The memory tier: snapshots that outlive their ranks, and are restored from before any checkpoint in storage.

The agent owns the memory of its ranks' snapshots, two slots each, and holds a copy of what the worker before it has; it
hands all that is whole to the ranks of the next attempt. So state survives the death of ranks, and of a whole worker.
This file decides what of it is used:

    room        whether there is memory for that at all, for every worker the same
"""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass

from trainyard_api.names import AGENT_PORT
from trainyard_api.protocol import SnapshotState

from ..engine.processes import gather
from ..group import Group

_SLOTS = 2
_COPIES = 2
"""Of the worker before: the one that is whole, and the one that is being received."""


@dataclass(frozen=True)
class Held:
    """A shard that this rank's agent holds whole."""

    rank: int
    step: int
    attempt: int
    bytes: int
    fd: int


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
        return f"http://{address}:{AGENT_PORT}/snapshots/{rank}?step={step}&attempt={self.group.attempt}"

    def tell(self, slot: int, step: int, shard_bytes: int) -> None:
        """Tell the agent that a slot holds this rank's whole shard of a step; with no bytes, that it holds none."""
        said = SnapshotState(rank=self.group.rank, step=step, attempt=self.group.attempt, bytes=shard_bytes, slot=slot)
        self.group.report(snapshot=said)


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
        f"{budget / 1e6:,.0f} MB are allowed; raise pretrain.checkpoint.memoryBudget or resources.memory"
    )
    return Room([alone], outlives=False, trouble=trouble)
