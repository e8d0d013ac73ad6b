"""The ranks of a stage as torch.distributed sees them: joining, agreeing, and the determinism all stages ask for.

Control messages (acknowledgements, stop flags) are CPU tensors and go over gloo, also where gradients use NCCL.
"""

import os
from collections.abc import Sequence
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from ..group import Group

T = TypeVar("T")

_PATIENCE = 2
"""Times what the agent allows a rank. A peer that dies is noticed at once, by its closed connection, and one that hangs by its
agent, which has stacks to tell; this is for when that is gone as well.
"""


def settle(number: int) -> torch.device:
    """Settle threads and determinism of this process, which has the GPU of that number if there is one: its device."""
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    if not torch.cuda.is_available():
        return torch.device("cpu")
    device = torch.device("cuda", number)
    torch.cuda.set_device(device)
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True, warn_only=True)
    return device


def join(group: Group) -> torch.device:
    """Connect with the other ranks and settle threads and determinism. Returns the device of this rank."""
    device = settle(group.local_rank)
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    patience = timedelta(seconds=_PATIENCE * max(group.job.hang_seconds, group.job.start_seconds))
    dist.init_process_group(backend, rank=group.rank, world_size=group.world_size, timeout=patience)
    return device


def leave() -> None:
    """Close the connections, so that no peer takes our end for a failure."""
    dist.destroy_process_group()


def gather(mine: T) -> list[T]:
    """Everyone's value, by rank, on every rank."""
    values: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(values, mine)
    return values


class Gathering:
    """Equally many bytes of every rank on their way to all, while everyone goes on with something else. A collective."""

    def __init__(self, mine: bytes) -> None:
        sent = torch.frombuffer(bytearray(mine), dtype=torch.uint8)
        self._received = [torch.empty_like(sent) for _ in range(dist.get_world_size())]
        self._work = dist.all_gather(self._received, sent, async_op=True)

    def is_done(self) -> bool:
        """Whether everyone's have arrived here."""
        return self._work.is_completed()

    def wait(self) -> list[bytes]:
        """Everyone's, by rank."""
        self._work.wait()
        return [each.numpy().tobytes() for each in self._received]


def from_rank_0(value: T) -> T:
    """Rank 0's value, on every rank."""
    values = [value]
    dist.broadcast_object_list(values, src=0)
    return values[0]


def deal(parts: Sequence[T] | None) -> T:
    """Rank 0's parts, one for each rank: this one's."""
    mine: list[Any] = [None]
    dist.scatter_object_list(mine, None if parts is None else list(parts), src=0)
    part: T = mine[0]
    return part


def add_up(*values: float) -> list[float]:
    """Sums over all ranks, in fp64, the same to the last bit on each."""
    sums = torch.tensor(values, dtype=torch.float64)
    dist.all_reduce(sums)
    return sums.tolist()
