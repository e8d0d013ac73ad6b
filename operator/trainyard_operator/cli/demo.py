"""`trainyard demo`: the example run from text to model, with one of its processes killed on the way.

It is `trainyard run` on manifests/examples/demo.yaml and nothing else; the kill and the summary are what is added. It
fails if the run did not recover from the kill or the model has learnt too little, and it ends by itself in any case.
"""

import argparse
import asyncio
import faulthandler
import json
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from trainyard_api.names import LABEL_RANK
from trainyard_api.protocol import AgentState
from trainyard_api.run import TrainingRun
from trainyard_api.status import Phase, Recovery, Status

from ..cluster.home import Home
from . import words
from .inputs import read_run_file
from .local_run import LocalRun
from .plot import plot
from .run import run_command
from .taking_up import made_by
from .views import View

FILE = Path(__file__).parents[3] / "manifests" / "examples" / "demo.yaml"
TRAINING = "base"
REPORT = "report"
STOP_SECONDS = 900.0
"""After this the run is stopped, as by Ctrl-C, and the demo has failed: ten times what it takes on two idle cores."""
EXIT_SECONDS = 920.0
"""After this the process ends, whatever it hangs on; the kernel then stops its pods."""
UNSAVED_STEPS = 20
"""Steps since the last checkpoint when the kill comes, for some to be computed again."""
LEARNT_BITS = 3.0
"""Bits per byte on held-out text, to stay below."""


def demo_command(options: argparse.Namespace) -> int:
    """Run the demo. Returns 0 if it shows what it is meant to show."""
    faulthandler.dump_traceback_later(EXIT_SECONDS, exit=True)
    began = time.monotonic()
    options.file, options.fresh, options.namespace = FILE, True, None
    code = run_command(options, companion=_kill_on_the_way)
    if code:
        print(f"the demo run did not succeed (exit code {code})")
        return 1
    home, run = Home(options.home), read_run_file(FILE, None)
    stored = home.read_run(*run.key)
    assert stored
    lines, mistakes = summary(home, run, Status.read_stored(stored["status"]))
    print(*lines, f"{time.monotonic() - began:.0f} s in all", *mistakes, sep="\n")
    return 1 if mistakes else 0


async def _kill_on_the_way(local: LocalRun, view: View) -> None:
    """Kill rank 0 when it has done a third of the steps, some of them after a checkpoint; stop when time is up."""
    deadline = time.monotonic() + STOP_SECONDS
    killed = False
    while time.monotonic() < deadline:
        state = None if killed else _training(local)
        if state and due(state):
            assert state.progress
            pid = state.ranks[0].pid
            os.kill(pid, signal.SIGKILL)
            killed = True
            view.say(f"killed rank 0 (process {pid}) on purpose at step {state.progress.step}; watch it recover")
        await asyncio.sleep(0.1)
    view.say(f"not done within {STOP_SECONDS:.0f} s")
    os.kill(os.getpid(), signal.SIGTERM)


def due(state: AgentState) -> bool:
    """Whether there is something to lose, and something to go back to."""
    if not state.progress or not state.checkpoint:
        return False
    step = state.progress.step
    return step >= state.progress.steps / 3 and step >= state.checkpoint.step + UNSAVED_STEPS


def _training(local: LocalRun) -> AgentState | None:
    """What rank 0's agent of the training stage last said, while that runs."""
    status = local.status()
    if status.stage != TRAINING or status.phase != Phase.RUNNING:
        return None
    for pod in local.store.pods(local.key):
        view = local.store.agent(pod["metadata"]["uid"])
        if view and view.state.attempt == status.attempt and pod["metadata"]["labels"][LABEL_RANK] == "0":
            return view.state if view.state.ranks else None
    return None


def summary(home: Home, run: TrainingRun, status: Status) -> tuple[list[str], list[str]]:
    """What the demo shows at its end, and what is wrong with it."""
    made = made_by(home, run)
    report: dict[str, Any] = json.loads((made / REPORT / "report.json").read_bytes())
    figures = {stage.name: stage.metrics or {} for stage in status.stages}[REPORT]
    recovered = [each for each in status.recoveries if each.stage == TRAINING and each.resumed_step is not None]
    lines = ["", "the kill:", *(f"  {words.recovery(each)}" for each in recovered), "", "samples:"]
    lines += _samples(report)
    lines += ["", "bits per byte on held-out text, less is better:"]
    for name, key in (
        ("the model", "bits_per_byte"),
        ("zlib", "zlib_bits_per_byte"),
        ("unigram", "unigram_bits_per_byte"),
    ):
        lines.append(f"  {name:<10}{figures[key]:.3f}")
    lines += ["", *(f"loss curve: {file}" for file in plot(home, run, made / "loss.png")), f"all of it: {made}"]
    return lines, list(_mistakes(figures["bits_per_byte"], recovered))


def _samples(report: dict[str, Any]) -> Iterator[str]:
    for sample in report["samples"]:
        yield f"  {sample['prompt']!r} → {sample['text']!r}"


def _mistakes(bits_per_byte: float, recovered: list[Recovery]) -> Iterator[str]:
    if not bits_per_byte < LEARNT_BITS:
        yield f"failed: {bits_per_byte:.3f} bits per byte, not below {LEARNT_BITS}"
    if not recovered:
        yield "failed: no worker was killed and recovered from"
