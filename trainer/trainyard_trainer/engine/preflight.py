"""Whether the group's machines are fit, found out in a fraction of a second before each attempt trains: arithmetic, the
connections between ranks, storage, clocks.

What a few ranks find is the fault of their node: they leave with `PreflightFailed`, the others as from a lost peer, so that
the attempt's cause names the node. What all ranks find is nobody's node: training goes on where it can (it outlives trouble
with storage), and only wrong numbers end the attempt.

Integers throughout: their sums and products are exact in any order, so one wrong bit shows.
"""

import statistics
import time
from dataclasses import dataclass

import torch
import torch.distributed as dist
from trainyard_api.probe import probe

from ..errors import PeerLostError, PreflightError, RetryableError
from ..group import Group
from . import processes

SUMMED_BYTES = {"cpu": 4 << 20, "cuda": 64 << 20}
"""What is summed over all ranks: 10 ms between two processes, 0.7 s at 100 Mbit/s."""
SKEW_WARNING_SECONDS = 1.0
SKEW_SECONDS = 300.0
"""From the group's median: signatures of object stores allow 900."""


@dataclass(frozen=True)
class Finding:
    """What one rank has found."""

    arithmetic: str
    """What is wrong with its own; empty if nothing is."""
    sums: str
    """What is wrong with what it got from the others."""
    storage: str | None
    """What is wrong with storage; None where another rank of the worker has looked."""
    time: float
    """Its clock."""


def preflight(group: Group, device: torch.device) -> None:
    """Check the machines of a group of connected ranks. Raises on all ranks if the attempt is not worth beginning."""
    if group.world_size == 1:
        return
    began = time.monotonic()
    sums, bytes_per_second = _sums(group, device)
    arithmetic, storage = _arithmetic(device), _storage(group)
    dist.barrier()
    findings = processes.gather(Finding(arithmetic, sums, storage, time.time()))
    clocks = [finding.time for finding in findings]
    skew = max(clocks) - min(clocks)
    if group.rank == 0:
        seconds = time.monotonic() - began
        figures = {"seconds": seconds, "bytes_per_second": bytes_per_second, "clock_skew_seconds": skew}
        group.report(metrics={f"preflight_{name}": value for name, value in figures.items()})
        print(f"preflight: {seconds:.3f} s, {bytes_per_second / 1e6:.0f} MB/s between ranks, clocks {skew:.3f} s apart")
        if skew > SKEW_WARNING_SECONDS:
            print(f"preflight: clocks are {skew:.1f} s apart; synchronise the clocks of the nodes")
    suspects = find_suspects(findings)
    if suspects:
        if mine := suspects.get(group.rank):
            raise PreflightError(mine)
        first, text = next(iter(suspects.items()))
        raise PeerLostError(f"the preflight of rank {first} failed: {text}")
    if wrong := arithmetic or sums:
        raise RetryableError(f"preflight, on all ranks: {wrong}; check the network, the devices and their drivers")
    if storage:
        print(f"preflight, on all workers: {storage}")


def find_suspects(findings: list[Finding]) -> dict[int, str]:
    """Ranks that are worse off than others → what is wrong with them."""
    middle = statistics.median(finding.time for finding in findings)
    skews = [finding.time - middle for finding in findings]
    clocks = [f"its clock is {skew:+.0f} s off the group's" if abs(skew) > SKEW_SECONDS else "" for skew in skews]
    checks: list[list[str | None]] = [
        [finding.arithmetic for finding in findings],
        [finding.sums for finding in findings],
        [finding.storage for finding in findings],
        [*clocks],
    ]
    suspects: dict[int, str] = {}
    for texts in checks:
        found = {rank: text for rank, text in enumerate(texts) if text}
        if len(found) < len(texts) - texts.count(None):
            suspects = found | suspects
    return dict(sorted(suspects.items()))


def _sums(group: Group, device: torch.device) -> tuple[str, float]:
    """What is wrong with known numbers that are summed over all ranks, and at what rate they were, as NCCL's tests count it."""
    length = SUMMED_BYTES[device.type] // 8
    pattern = torch.arange(length, device=device) % 251
    mine = pattern * (group.rank + 1)
    dist.all_reduce(mine[:1].clone())  # connects
    began = time.monotonic()
    dist.all_reduce(mine)
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    seconds = time.monotonic() - began
    ranks = group.world_size
    wrong = int((mine != pattern * (ranks * (ranks + 1) // 2)).sum())
    moved = 2 * (ranks - 1) / ranks * length * 8
    return (f"{wrong} of {length} sums over all ranks are wrong" if wrong else ""), moved / seconds


def _arithmetic(device: torch.device) -> str:
    """What is wrong with a product of matrices that is known exactly. On GPUs this has never run."""
    left = torch.arange(128 * 128).reshape(128, 128) % 13
    exact = left @ left.T
    numbers = left.to(device, torch.float32)
    wrong = int(((numbers @ numbers.T).cpu().long() != exact).sum())
    return f"{wrong} of {exact.numel()} elements of a product on {device} are wrong" if wrong else ""


def _storage(group: Group) -> str | None:
    """What is wrong with storage as this worker sees it: one of its ranks writes, and reads it back."""
    if group.local_rank:
        return None
    try:
        probe(group.storage, f".preflight-{group.rank}")
    except OSError as error:
        return f"storage: {error}"
    return ""
