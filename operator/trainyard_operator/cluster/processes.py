"""Pods as processes: started in a session of their own, known by an owner in their environment, and ended whole.

What a container's end does to its processes, this must do: none may live on, whatever session or group it has moved to.
The owner, `<run's UID>/<pod's UID>`, stands in the environment that children inherit, so /proc tells what belongs to a
pod, or to any pod of a run, even to one of an operator that was killed; a recorded pid could be another process by now.
"""

import asyncio
import ctypes
import os
import signal
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from secrets import randbelow
from typing import BinaryIO

OWNER_VARIABLE = "TRAINYARD_LOCAL_OWNER"
PR_SET_PDEATHSIG = 1
KILL_SECONDS = 10.0
"""How long killed processes may take to be gone; one in uninterruptible sleep can take longer, and is left."""

_libc = ctypes.CDLL(None)


async def start(
    command: list[str], environment: Mapping[str, str], owner: str, output: BinaryIO
) -> asyncio.subprocess.Process:
    """Start a pod's first process, which writes to `output`. Raises OSError if the command can't be run.

    Its own session keeps the terminal's Ctrl-C from it. If we die, the kernel sends it SIGTERM, so that it saves and
    leaves instead of going on unwatched.
    """
    return await asyncio.create_subprocess_exec(
        *command,
        env={**environment, OWNER_VARIABLE: owner},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=output,
        stderr=output,
        start_new_session=True,
        preexec_fn=lambda: _libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM),
    )


def living(owner: str) -> list[int]:
    """Pids of all live processes of an owner: a pod, or `<run's UID>/` for all pods of a run."""
    return [pid for pid, _ in _environments(owner)]


def pods(owner: str) -> dict[str, dict[str, str]]:
    """The environment of each pod that lives, by its name."""
    each = (dict(variable.partition("=")[::2] for variable in variables) for _, variables in _environments(owner))
    return {variables["TRAINYARD_POD"]: variables for variables in each if "TRAINYARD_POD" in variables}


def _environments(owner: str) -> Iterator[tuple[int, list[str]]]:
    """Pid and environment of all live processes of an owner."""
    wanted = f"{OWNER_VARIABLE}={owner}"
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                environment = (folder / "environ").read_bytes()
            except OSError:  # another user's, or gone
                continue
            variables = environment.decode(errors="surrogateescape").split("\0")
            if any(variable.startswith(wanted) for variable in variables):
                yield int(folder.name), variables


async def end(owner: str) -> None:
    """Kill all that lives of an owner, and wait until it is gone."""
    deadline = time.monotonic() + KILL_SECONDS
    pause = 0.01
    while (pids := living(owner)) and time.monotonic() < deadline:
        for pid in pids:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        await asyncio.sleep(pause)
        pause = min(2 * pause, 0.2)


def free_address(port: int, draw: Callable[[int], int] = randbelow) -> str:
    """A loopback address on which nobody listens at `port`: 127.0.0.0/8 is all ours, 16 million pods' worth."""
    while True:
        address = f"127.{16 + draw(239)}.{draw(255)}.{1 + draw(254)}"
        with socket.socket() as probe:
            try:
                probe.bind((address, port))
            except OSError:
                continue
            return address
