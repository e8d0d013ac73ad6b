"""`trainyard suspend|resume|delete RUN`: a run of this machine if there is one of that name, else of the cluster.

What a run has made outlives it, unless `--artifacts` asks for its deletion too; then that is deleted first, while nothing of
the run writes, and the run stays if it can't be.
"""

import argparse
import asyncio
import sys
from collections.abc import Callable

from trainyard_api.run import TrainingRun
from trainyard_api.status import Status

from ..cluster.home import HeldError, Home
from ..cluster.protocol import Manifest
from .applied import applied
from .discarding import artifacts_uri, discard_artifacts
from .get import selected
from .inputs import InputError
from .taking_up import artifacts, discard

DONE, BAD_INPUT = 0, 2


def suspend_command(options: argparse.Namespace) -> int:
    """Have a run of the cluster save and stop."""
    return _done(lambda: asyncio.run(_set_suspend(options, suspend=True)))


def resume_command(options: argparse.Namespace) -> int:
    """Have a run of the cluster go on."""
    return _done(lambda: asyncio.run(_set_suspend(options, suspend=False)))


def delete_command(options: argparse.Namespace) -> int:
    """Delete a run, and what it made if that is asked for."""
    here = selected(Home(options.home), options.namespace, options.run)
    return _done(lambda: _delete_here(options, here) if here else asyncio.run(_delete_applied(options)))


def _done(do: Callable[[], None]) -> int:
    try:
        do()
    except InputError as error:
        print(*error.mistakes, sep="\n", file=sys.stderr)
        return BAD_INPUT
    return DONE


async def _set_suspend(options: argparse.Namespace, *, suspend: bool) -> None:
    if selected(Home(options.home), options.namespace, options.run):
        raise InputError(
            f"run {options.run} is one of this machine: Ctrl-C has its `trainyard run` save and stop, "
            "the same command resumes it"
        )
    async with applied(options.namespace, options.run) as there:
        await there.change_spec(suspend=suspend)
        what = "saves and stops" if suspend else "goes on from its last checkpoint"
        print(f"run {there.namespace}/{there.name} {what}; `kubectl get trainingruns -w` shows it")


def _delete_here(options: argparse.Namespace, here: list[Manifest]) -> None:
    if len(here) > 1:
        names = ", ".join(run["metadata"]["namespace"] for run in here)
        raise InputError(f"run {options.run} is in several namespaces: {names}; use --namespace")
    home, run = Home(options.home), _read(here[0])
    try:
        with home.held(*run.key):
            discard(home, run, print, artifacts_too=options.artifacts)
    except HeldError as holder:
        raise InputError(f"run {run.metadata.name} is driven by {holder}; stop that one first") from None
    if not options.artifacts:
        print(f"{artifacts(home, run).uri.removeprefix('file://')} stays")


async def _delete_applied(options: argparse.Namespace) -> None:
    async with applied(options.namespace, options.run) as there:
        manifest = await there.read()
        run, status = _read(manifest), Status.read_stored(manifest.get("status") or {})
        uri = artifacts_uri(run)
        if options.artifacts:
            await discard_artifacts(there, run, status, options.image)
            print(f"{uri} is deleted")
        await there.delete()
        print(f"run {there.namespace}/{there.name} is deleted" + ("" if options.artifacts else f"; {uri} stays"))


def _read(run: Manifest) -> TrainingRun:
    return TrainingRun.read_stored({**run, "status": None})
