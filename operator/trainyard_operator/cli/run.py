"""`trainyard run FILE`: the whole of a TrainingRun in processes of this machine, to be watched, stopped and resumed."""

import argparse
import asyncio
import contextlib
import signal
import sys
from collections.abc import Callable, Coroutine
from typing import Any

from trainyard_api.run import TrainingRun
from trainyard_api.status import FINISHED, Phase, Status

from ..cluster.home import HeldError, Home
from ..cluster.protocol import Manifest
from ..observe.server import serving
from . import words
from .inputs import InputError, check_storage, read_run_file
from .local_run import LocalRun
from .taking_up import artifacts, take_up
from .views import View, viewing

SUCCEEDED, FAILED, BAD_INPUT, STOPPED = 0, 1, 2, 130
REFRESH_SECONDS = 0.5

Companion = Callable[[LocalRun, View], Coroutine[Any, Any, None]]
"""Something that goes on beside a run until it is cancelled."""


def run_command(options: argparse.Namespace, companion: Companion | None = None) -> int:
    """Run the file to its end, or until a signal stops it. Returns the exit code."""
    home = Home(options.home)
    try:
        run = read_run_file(options.file, options.namespace)
        check_storage(home, run)
        with home.held(*run.key):
            manifest = take_up(home, run, fresh=options.fresh, say=print)
            status = Status.read_stored(manifest["status"])
            if status.phase == Phase.SUCCEEDED:
                print(f"run {run.metadata.name} has succeeded already; --fresh discards it and begins anew")
            else:
                status = asyncio.run(_drive(home, manifest, options, companion))
    except InputError as error:
        print(*error.mistakes, sep="\n", file=sys.stderr)
        return BAD_INPUT
    except HeldError as holder:
        print(f"run {run.metadata.name} is driven by {holder}; stop that one first", file=sys.stderr)
        return BAD_INPUT
    print(*conclusion(home, run, status), sep="\n")
    return {Phase.SUCCEEDED: SUCCEEDED, Phase.FAILED: FAILED}.get(status.phase, STOPPED)


async def _drive(home: Home, manifest: Manifest, options: argparse.Namespace, companion: Companion | None) -> Status:
    """Drive the run until it has finished or is stopped, and return its last status."""
    local = LocalRun(home, manifest)
    signals: asyncio.Queue[None] = asyncio.Queue()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, signals.put_nowait, None)
    async with contextlib.AsyncExitStack() as open_things:
        view = open_things.enter_context(viewing(manifest["metadata"]["name"], plain=options.plain))
        if options.metrics_port is not None:
            port = await open_things.enter_async_context(serving(local.metrics, options.metrics_port, host="127.0.0.1"))
            view.say(f"metrics at http://127.0.0.1:{port}/metrics")
        stop = asyncio.create_task(signals.get())
        parts = [stop]
        try:
            parts.append(await local.start())
            if companion:
                parts.append(asyncio.create_task(companion(local, view)))
            await _watch(local, view, stop, parts)
        finally:
            asked = stop.done()
            for part in parts:
                part.cancel()
            await _end(local, view, signals, asked=asked)
        view.show(local.status(), local.status())
    return local.status()


async def _watch(local: LocalRun, view: View, stop: asyncio.Task[None], parts: list[asyncio.Task[None]]) -> None:
    """Show the run until it has finished, is suspended, or `stop` is done. Raises what ends any of the parts."""
    while local.status().phase not in (*FINISHED, Phase.SUSPENDED) and not stop.done():
        view.show(local.status(), local.live_status())
        ended, _ = await asyncio.wait(parts, timeout=REFRESH_SECONDS, return_when=asyncio.FIRST_COMPLETED)
        for part in ended:
            part.result()


async def _end(local: LocalRun, view: View, signals: asyncio.Queue[None], *, asked: bool) -> None:
    """Stop what still runs; a further signal kills it at once."""
    stopping = asyncio.create_task(local.stop())
    if asked:
        view.say("stopping: the workers save and leave; once more kills them at once")
    again = asyncio.create_task(signals.get())
    await asyncio.wait({stopping, again}, return_when=asyncio.FIRST_COMPLETED)
    if not stopping.done():
        view.say("killing the workers")
        await local.stop(grace_seconds=0)
    again.cancel()
    await stopping


def conclusion(home: Home, run: TrainingRun, status: Status) -> list[str]:
    """How the run has ended, what it made, and where everything lies."""
    folder = home.folder(*run.key)
    lines = ["", f"{run.metadata.name}: {words.headline(status)}"]
    if status.phase not in (*FINISHED, Phase.SUSPENDED):
        at = f"at step {status.checkpoint.step} " if status.checkpoint else ""
        lines = ["", f"{run.metadata.name}: stopped {at}in stage {status.stage}; the same command resumes it"]
    if status.phase == Phase.FAILED:
        lines.append("the same command tries again, from the last checkpoint")
    for stage in status.stages:
        if stage.phase == "Succeeded":
            metrics = ", ".join(f"{name} {value:.6g}" for name, value in (stage.metrics or {}).items())
            lines.append(f"  {stage.name}: {metrics or 'done'}")
    lines += [f"  {words.quarantined(each)}" for each in status.quarantined]
    lines += [f"  recovery: {words.recovery(recovery)}" for recovery in status.recoveries]
    places = {
        "artifacts": artifacts(home, run).uri.removeprefix("file://"),
        "logs": folder / "logs",
        "status": folder / "run.json",
    }
    return lines + [f"  {what + ':':<11}{place}" for what, place in places.items()]
