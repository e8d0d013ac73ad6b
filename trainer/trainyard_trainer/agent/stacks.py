"""The stacks of ranks, taken from outside.

Each rank has faulthandler write the stacks of all its threads, on SIGUSR1, into memory that its agent reads. The handler is
in C and needs neither the GIL nor the main thread's attention, so it works while a rank waits in a collective, in a system
call or in a loop of native code; and no rights, where py-spy needs ptrace, which hardened pods don't have. A rank that does
not take the signal is stopped, or in the kernel's hands: then the kernel is asked.
"""

import asyncio
import os
import signal
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import groupby
from typing import Literal

from trainyard_api.protocol import Place

from . import kernel
from .rank_process import RankProcess
from .tracebacks import place, threads

SIGNAL = signal.SIGUSR1
SECONDS = 3.0
"""For a rank to take the signal and write; it takes milliseconds."""
LOOK_SECONDS = 0.02


@dataclass(frozen=True)
class Stack:
    """Where one rank is."""

    rank: int
    state: Literal["waits", "runs", "unresponsive"]
    where: str
    text: str
    """All there is to know, for people."""


async def stacks_of(ranks: Iterable[RankProcess]) -> list[Stack]:
    """Where these ranks are, those that have ended left out."""
    found = await asyncio.gather(*(_stack_of(rank) for rank in ranks))
    return [stack for stack in found if stack]


def places(stacks: list[Stack]) -> list[Place]:
    """The stacks in short: ranks that are at the same place together."""

    def at(stack: Stack) -> tuple[str, str]:
        return stack.state, stack.where

    return [
        Place(ranks=[each.rank for each in there], state=there[0].state, where=there[0].where)
        for _, group in groupby(sorted(stacks, key=at), at)
        if (there := list(group))
    ]


async def _stack_of(rank: RankProcess) -> Stack | None:
    written = await _written(rank)
    if rank.exit_code is not None:
        return None
    state: Literal["waits", "runs", "unresponsive"] = "unresponsive"
    where = kernel.described(rank.pid)
    if written:
        inside, waits = place(threads(written))
        state, where = "waits" if waits else "runs", inside
    silent = asyncio.get_running_loop().time() - rank.heard
    head = (
        f"rank {rank.rank}, pid {rank.pid}: {rank.beat.activity} after step {rank.beat.step}, silent for {silent:.1f} s"
    )
    lines = [head, f"kernel: {kernel.described(rank.pid)}", *kernel.threads(rank.pid), "", written or "no answer"]
    return Stack(rank.rank, state, where, "\n".join(lines) + "\n")


async def _written(rank: RankProcess) -> str:
    """What the rank writes of itself; nothing if it doesn't answer in time, has ended, or hasn't got so far as to listen."""
    if rank.exit_code is not None or not kernel.handles(rank.pid, SIGNAL):
        return ""
    async with rank.asked:
        return await _ask(rank) if rank.exit_code is None else ""


async def _ask(rank: RankProcess) -> str:
    os.ftruncate(rank.stacks, 0)
    os.lseek(rank.stacks, 0, os.SEEK_SET)
    os.kill(rank.pid, SIGNAL)
    until = asyncio.get_running_loop().time() + SECONDS
    while asyncio.get_running_loop().time() < until:
        await asyncio.sleep(LOOK_SECONDS)
        if rank.exit_code is not None:
            return ""
        if (size := os.fstat(rank.stacks).st_size) and not kernel.is_handling(rank.pid, SIGNAL):
            return os.pread(rank.stacks, size, 0).decode(errors="replace")
    return ""
