"""The writer process, as its rank sees it: ask, go on training, look for the answer now and then."""

import json
import os
import select
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from trainyard_api.checkpoint import Shard

from .failure import Failure

_DIED = Failure(
    "the process that writes checkpoints was killed (by hand, or for lack of memory); another one is started"
)


@dataclass(frozen=True)
class Answer:
    """How a command ended."""

    shard: Shard | None = None
    committed: float | None = None
    """When, by the monotonic clock of this machine."""
    failure: Failure | None = None
    copied: bool | None = None
    """Whether the next worker's agent has got the shard before this one; None if it wasn't to."""


class Writer:
    """One rank's writer. Start it on the main thread: the kernel ends it together with the thread that started it."""

    def __init__(self, uri: str, memories: Sequence[int], size: int) -> None:
        """`uri` says where checkpoints are; `memories` are the descriptors of the rank's slots, for a shard of `size` bytes
        each.
        """
        self._uri, self._memories, self._size = uri, memories, size
        self._process = self._start()
        self._said = b""

    def revive(self) -> None:
        """Start another process if the last one has died. What it was doing has failed."""
        if self._process.poll() is not None:
            self.close()
            self._process, self._said = self._start(), b""

    def ask(self, command: dict[str, Any]) -> None:
        """Give a command."""
        assert self._process.stdin
        try:
            self._process.stdin.write(json.dumps(command).encode() + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass  # it has died: the answer will say so

    def answer(self, seconds: float = 0) -> Answer | None:
        """The next answer; None if there is none after so many seconds."""
        assert self._process.stdout
        output = self._process.stdout.fileno()
        while b"\n" not in self._said:
            if not select.select([output], [], [], seconds)[0]:
                return None
            if not (read := os.read(output, 65_536)):
                self._process.wait()
                return Answer(failure=_DIED)
            self._said += read
        line, _, self._said = self._said.partition(b"\n")
        said = json.loads(line)
        return Answer(
            shard=Shard(**said["shard"]) if "shard" in said else None,
            committed=said.get("committed"),
            failure=Failure(**said["failure"]) if "failure" in said else None,
            copied=said.get("copied"),
        )

    def close(self) -> None:
        """End the process, whatever it is doing."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe
            try:
                pipe.close()
            except BrokenPipeError:
                pass

    def _start(self) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [
                *(sys.executable, "-m", f"{__package__}.writer", self._uri),
                *map(str, (os.getpid(), self._size, *self._memories)),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            pass_fds=self._memories,
        )
