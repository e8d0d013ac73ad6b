"""How ranks are started: forked from the warm process where there is one, else as fresh interpreters.

Either way a rank is a child of this process and has the same environment, and the same descriptors under the same numbers.
"""

import asyncio
import ctypes
import fcntl
import json
import os
import socket
import struct
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from ..warm import LENGTH
from .events import log

ANSWER_SECONDS = 10.0
"""For the warm process to fork; it takes some milliseconds."""
FIRST_DESCRIPTOR = 100
"""Of those that ranks are given: out of the way of what libraries have opened in the warm process."""
PR_SET_CHILD_SUBREAPER = 36


@dataclass(frozen=True)
class Start:
    """What a rank is started with."""

    variables: Mapping[str, str]
    """What its environment has beside that of this process."""
    output: int
    """Where it prints to."""
    descriptors: Sequence[int]
    """That it has beside the standard ones."""


def fresh(start: Start) -> int:
    """Start a new interpreter as a rank. Returns its pid."""
    process = subprocess.Popen(
        [sys.executable, "-m", "trainyard_trainer.rank"],
        env={**os.environ, **start.variables},
        stdin=subprocess.DEVNULL,
        stdout=start.output,
        stderr=subprocess.STDOUT,
        pass_fds=start.descriptors,
    )
    process.returncode = 0  # reaped by the agent, not by Popen
    return process.pid


def for_ranks(descriptor: int) -> int:
    """The descriptor under a number that is free in any rank."""
    moved = fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, FIRST_DESCRIPTOR)
    os.close(descriptor)
    return moved


class Warm:
    """The warm process for a kind of stage, as its agent sees it. `settled` is called when it is ready, or has failed."""

    def __init__(self, kind: str, settled: Callable[[], None]) -> None:
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1)  # ranks that it has forked become our children
        self._kind, self._settled = kind, settled
        self._state: Literal["importing", "ready", "died", "hopeless"] = "died"
        self._begin()

    def usable(self) -> bool:
        """Whether there is nothing to wait for; one that has died begins anew, for that takes no longer than a fresh rank."""
        if self._state == "died":
            self._begin()
        return self._state != "importing"

    def fork(self, start: Start) -> int | None:
        """Start a rank and return its pid; None if this process can't."""
        if self._state != "ready":
            return None
        body = json.dumps(
            {"environment": {**os.environ, **start.variables}, "numbers": [0, 1, 2, *start.descriptors]}
        ).encode()
        held, go = os.pipe()
        try:
            with open(os.devnull) as nothing:
                given = [held, nothing.fileno(), start.output, start.output, *start.descriptors]
                socket.send_fds(self._socket, [LENGTH.pack(len(body))], given)
            self._socket.sendall(body)
            [pid] = LENGTH.unpack(self._socket.recv(LENGTH.size, socket.MSG_WAITALL))
            os.write(go, b"\0")
        except (OSError, struct.error) as error:
            self._end("died")
            log("warm_process_lost", reason=str(error))
            return None
        finally:
            os.close(held)
            os.close(go)
        return int(pid)

    def _begin(self) -> None:
        self._state = "importing"
        self._socket, theirs = socket.socketpair()
        with theirs:
            process = subprocess.Popen(
                [sys.executable, "-m", "trainyard_trainer.warm", self._kind, str(theirs.fileno())],
                env={**os.environ, "PYTHONUNBUFFERED": "1"},
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
            )
        process.returncode = 0  # reaped by the agent, not by Popen
        self._socket.settimeout(ANSWER_SECONDS)
        asyncio.get_running_loop().add_reader(self._socket, self._hear)

    def _hear(self) -> None:
        """It is ready, or gone."""
        try:
            said = self._socket.recv(1)
        except ConnectionError:
            said = b""
        if said:
            self._state = "ready"
            log("warm", stage=self._kind)
        else:
            self._end("hopeless" if self._state == "importing" else "died")
            log("warm_process_lost", reason="it has ended")
        self._settled()

    def _end(self, state: Literal["died", "hopeless"]) -> None:
        self._state = state
        asyncio.get_running_loop().remove_reader(self._socket)
        self._socket.close()
