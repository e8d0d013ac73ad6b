"""Ranks that begin with everything imported, in a tenth of a second instead of five, and that can be held at a place.

They are forked by the standard library's fork server, which has imported torch, DeepSpeed and the stages once a test session.
"""

import importlib
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import bad_batches
from conditions import eventually
from training import Ranks
from trainyard_api.checkpoint import Name
from trainyard_api.protocol import Job

MODULES = [
    "deepspeed",
    "trainyard_trainer.rank",
    *(f"trainyard_trainer.stages.{kind}" for kind in ("pretrain", "sft", "reward", "dpo", "ppo", "grpo", "evaluate")),
]
HELD_SECONDS = 300
"""For ranks to come to where they are held: those that have others draw start Ray first, beside all other tests."""
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload([*MODULES, "trainyard_trainer.stages.export"])


class WarmRanks(Ranks):
    """The processes of a stage. Each stops where it calls `hold` ("module:name") for the n-th time, or each of several, until
    `release`. `bad` batches: the arguments of `bad_batches.spoil`.
    """

    def __init__(
        self,
        job: Job,
        world_size: int = 2,
        attempt: int = 1,
        hold: str = "",
        at_call: int | range = 1,
        bad: dict[str, list[int]] | None = None,
        folder: Path | None = None,
        **environment: str,
    ) -> None:
        self._hold, self._bad = hold, bad
        self._at_calls = at_call if isinstance(at_call, range) else range(at_call, at_call + 1)
        super().__init__(job, world_size, attempt, folder=folder, **environment)

    def _start(self, script: tuple[str, ...], environment: dict[str, str], log: Path, reports: int) -> "_Process":
        held = self.output / f"held-{environment['RANK']}"
        process = CONTEXT.Process(
            target=_run, args=(environment, str(log), str(self._reports), self._hold, self._at_calls, held, self._bad)
        )
        process.start()
        return _Process(process, held)

    def until_held(self, *ranks: int) -> None:
        """Wait until these are where they are held; all ranks if none is named."""
        for rank in ranks or range(len(self.processes)):
            eventually(self.processes[rank].held.exists, HELD_SECONDS, f"rank at {self._hold}", self.said)

    def release(self, *ranks: int) -> None:
        """Let these go on; all of them if none is named."""
        for rank in ranks or range(len(self.processes)):
            self.processes[rank].held.unlink()


def train_saving_each(job: Job, every: int, steps: int, world_size: int) -> WarmRanks:
    """Training of so many steps that saves every so many, six or more: each time, for a save that came due while another was
    under way would be skipped. So ranks are held until shards are written, and then until the manifest is.
    """
    held_at = range(every + 1, steps + 1, every // 3)
    ranks = WarmRanks(job, world_size, hold="trainyard_trainer.stages.training:learning_rate", at_call=held_at)
    for call in held_at:
        step, later = divmod(call - 1, every)
        made = ranks.output / "checkpoints" / str(Name(step * every, 1))
        wanted = {0: ("*.safetensors", world_size), every // 3: ("manifest.json", 1)}.get(later)
        ranks.until_held()
        if wanted:
            pattern, number = wanted
            eventually(lambda: len([*made.glob(pattern)]) == number, 60, f"{made}/{pattern}", ranks.said)  # noqa: B023
            time.sleep(0.3)  # for who has written it to say so
        ranks.release()
    ranks.succeed()
    return ranks


class _Process:
    """As `subprocess.Popen` has it."""

    def __init__(self, process: Any, held: Path) -> None:
        self._process, self.held = process, held
        self.pid: int = process.pid

    def send_signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def kill(self) -> None:
        self._process.kill()

    def poll(self) -> int | None:
        return self._process.exitcode

    def wait(self, seconds: float) -> int:
        self._process.join(seconds)
        assert self._process.exitcode is not None, f"process {self.pid} has not ended within {seconds} s"
        return self._process.exitcode


def _run(
    environment: dict[str, str],
    log: str,
    reports: str,
    hold: str,
    at_calls: range,
    held: Path,
    bad: dict[str, list[int]] | None,
) -> None:
    """Be a rank, in a process that has just been forked."""
    os.environ.clear()
    os.environ.update(environment | {"TRAINYARD_REPORT_FD": str(os.open(reports, os.O_WRONLY | os.O_APPEND))})
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for descriptor in (1, 2):
        os.dup2(output, descriptor)
    signal.set_wakeup_fd(-1)
    if hold:
        module, _, name = hold.partition(":")
        owner: Any = importlib.import_module(module)
        *path, last = name.split(".")
        for part in path:
            owner = getattr(owner, part)
        setattr(owner, last, _holding(getattr(owner, last), at_calls, held))
    if bad:
        bad_batches.spoil(**bad)
    from trainyard_trainer.rank import main

    sys.argv = ["rank"]
    main()


def _holding(function: Callable[..., Any], at_calls: range, held: Path) -> Callable[..., Any]:
    calls = iter(range(1, sys.maxsize))

    def call(*arguments: Any, **named: Any) -> Any:
        if next(calls) in at_calls:
            held.touch()
            while held.exists():
                time.sleep(0.01)
        return function(*arguments, **named)

    return call
