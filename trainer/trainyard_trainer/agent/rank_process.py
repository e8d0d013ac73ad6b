"""A rank as its agent sees it: a process, the lines that it prints and the reports that it writes.

Both come through pipes that the event loop reads. When the process has ended, what it wrote is all in the pipes, so
they are emptied once and closed: a forgotten grandchild that still holds the other end can't keep the agent waiting.
"""

import asyncio
import dataclasses
import json
import os
import signal
import sys
from collections import deque
from collections.abc import Callable, Iterable, Mapping

from trainyard_api.protocol import Assignment, Beat, RankState, Report, Termination

from .environment import Environment
from .last_words import LastWords
from .snapshots import Snapshots
from .starting import Start, for_ranks

PIPE_BYTES = 65_536
"""The most a pipe holds; also the longest line that is passed on in one piece."""


class RankProcess:
    """One rank, from its start to its end."""

    def __init__(
        self,
        rank: int,
        variables: Mapping[str, str],
        descriptors: Iterable[int],
        start: Callable[[Start], int],
        on_report: Callable[[Report], None],
    ) -> None:
        """Start it with these environment variables, and with these descriptors under the same numbers as here."""
        self.rank = rank
        self.exit_code: int | None = None
        self.asked_to_stop = False
        self.killed = False
        self.failure: Termination | None = None
        self.last_words = LastWords()
        self.heard = asyncio.get_running_loop().time()
        """When it last reported; at first, when it was started."""
        self.beat = Beat(activity="starting")
        self.paces: deque[float] = deque(maxlen=2)
        """That it told last."""
        self.stacks = for_ranks(os.memfd_create("trainyard-stacks"))
        """Memory that it writes its stacks to."""
        self.asked = asyncio.Lock()
        """Held while it does."""
        self._on_report = on_report
        output, output_end = os.pipe()
        reports, reports_end = os.pipe()
        reports_end = for_ranks(reports_end)
        ours = {"TRAINYARD_REPORT_FD": str(reports_end), "TRAINYARD_STACKS_FD": str(self.stacks)}
        self.pid = start(Start({**variables, **ours}, output_end, [reports_end, self.stacks, *descriptors]))
        os.close(output_end)
        os.close(reports_end)
        self._output = _Lines(output, self._print)
        self._reports = _Lines(reports, self._report)

    @property
    def state(self) -> RankState:
        """What the operator sees of it."""
        return RankState(rank=self.rank, pid=self.pid, exit_code=self.exit_code)

    def stop(self) -> None:
        """Ask it to save and leave."""
        if self.exit_code is None:
            self.asked_to_stop = True
            os.kill(self.pid, signal.SIGTERM)

    def kill(self) -> None:
        """End it, now."""
        if self.exit_code is None:
            self.killed = True
            os.kill(self.pid, signal.SIGKILL)

    def hear(self) -> None:
        """Take in what it has reported by now."""
        if self.exit_code is None:
            self._reports.read()

    def ended(self, exit_code: int) -> None:
        """Take note that the process was reaped, and hear its last words."""
        self.exit_code = exit_code
        if unfinished := self._output.finish():
            self._print(unfinished)
        self._reports.finish()
        os.close(self.stacks)

    def _print(self, line: bytes) -> None:
        sys.stdout.buffer.write(b"[rank %d] %s\n" % (self.rank, line))
        sys.stdout.buffer.flush()
        self.last_words.hear(line.decode(errors="replace"))

    def _report(self, line: bytes) -> None:
        report = Report.model_validate_json(line)
        self.failure = report.failure or self.failure
        self.heard = asyncio.get_running_loop().time()
        self.beat = report.beat or self.beat
        if report.beat and report.beat.pace is not None:
            self.paces.append(report.beat.pace)
        self._on_report(report)


def rank_variables(
    assignment: Assignment, local_rank: int, settings: Environment, snapshots: Snapshots
) -> dict[str, str]:
    """What a rank's environment has beside the agent's: its place as torchrun would tell it, and what is ours."""
    whole = [dataclasses.asdict(held) for held in snapshots.whole]
    place = {
        "RANK": assignment.worker * assignment.ranks_per_worker + local_rank,
        "WORLD_SIZE": assignment.world_size,
        "LOCAL_RANK": local_rank,
        "LOCAL_WORLD_SIZE": assignment.ranks_per_worker,
        "MASTER_ADDR": assignment.master_address,
        "MASTER_PORT": assignment.master_port,
        "TRAINYARD_JOB": assignment.job.model_dump_json(by_alias=True),
        "TRAINYARD_ATTEMPT": assignment.attempt,
        "TRAINYARD_AGENT_PID": os.getpid(),
        "TRAINYARD_ADDRESSES": json.dumps(assignment.addresses),
        "TRAINYARD_TOKEN_FILE": settings.token_file,
        "TRAINYARD_SNAPSHOT_FDS": ",".join(map(str, snapshots.slots(local_rank))),
        "TRAINYARD_SNAPSHOTS": json.dumps(whole),
        "PYTHONUNBUFFERED": 1,
    }
    loopback = {"GLOO_SOCKET_IFNAME": "lo"} if settings.on_loopback else {}
    return {**{name: str(value) for name, value in place.items()}, **loopback}


class _Lines:
    """The lines that come out of a pipe, one call each."""

    def __init__(self, descriptor: int, handle: Callable[[bytes], None]) -> None:
        self._descriptor = descriptor
        self._handle = handle
        self._rest = b""
        os.set_blocking(descriptor, False)
        asyncio.get_running_loop().add_reader(descriptor, self.read)

    def read(self) -> int:
        """Handle the lines that have come. Returns the bytes read."""
        try:
            chunk = os.read(self._descriptor, PIPE_BYTES)
        except BlockingIOError:
            return 0
        if not chunk:
            asyncio.get_running_loop().remove_reader(self._descriptor)
            return 0
        *lines, self._rest = (self._rest + chunk).split(b"\n")
        if len(self._rest) > PIPE_BYTES:
            lines, self._rest = [*lines, self._rest], b""
        for line in lines:
            self._handle(line)
        return len(chunk)

    def finish(self) -> bytes:
        """Handle the lines in the pipe, close it, and return the start of a line that was never finished."""
        left = PIPE_BYTES
        while left > 0 and (count := self.read()):
            left -= count
        asyncio.get_running_loop().remove_reader(self._descriptor)
        os.close(self._descriptor)
        return self._rest
