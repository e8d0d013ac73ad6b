"""`trainyard stacks RUN`: where the ranks of a run hung, as their agents have stored it; with --now, where they are now.

Agents of this machine are found as their processes are: by the owner in their environment, which also says where they answer.
"""

import argparse
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from trainyard_api.names import AGENT_PORT, stacks_path
from trainyard_api.run import TrainingRun
from trainyard_api.storage import Storage

from ..cluster import processes
from ..cluster.home import Home
from .get import selected
from .inputs import InputError
from .taking_up import artifacts

ANSWER_SECONDS = 15
"""For an agent to ask its ranks, and to give up on those that don't answer."""


def stacks_command(options: argparse.Namespace) -> int:
    """Print the stacks of all ranks. Returns the exit code: 1 where there are none."""
    home = Home(options.home)
    runs = selected(home, options.namespace, options.run)
    if len(runs) != 1:
        where = "is in several namespaces; use --namespace" if runs else f"is not in {home.root}; use --home"
        print(f"run {options.run} {where}", file=sys.stderr)
        return 1
    try:
        found = dict(_now(runs[0]["metadata"]["uid"]) if options.now else _stored(home, runs[0], options))
    except (InputError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    for title, text in found.items():
        print(f"==> {title}\n{text}")
    if not found:
        remedy = "no agent of it runs" if options.now else "no attempt of it has hung; --now shows where its ranks are"
        print(f"run {options.run}: {remedy}", file=sys.stderr)
    return 0 if found else 1


def _stored(home: Home, manifest: dict[str, object], options: argparse.Namespace) -> Iterator[tuple[str, str]]:
    """Of each stage the attempt that is asked for, or the last one that hung."""
    run = TrainingRun.read_stored({**manifest, "status": None})
    made = artifacts(home, run)
    for stage in run.spec.stages:
        if options.stage in (None, stage.name):
            attempt = options.attempt or max(_attempts(made.at(stage.name)), default=0)
            folder = made.at(f"{stage.name}/{stacks_path(attempt)}")
            for file in sorted(folder.names(), key=lambda name: (len(name), name)):
                yield f"{stage.name} attempt {attempt} {Path(file).stem}", folder.read(file).decode()


def _attempts(stage: Storage) -> Iterator[int]:
    """Those of a stage that have stacks."""
    return (int(name.rpartition("-")[2]) for name in stage.names("stacks"))


def _now(uid: str) -> Iterator[tuple[str, str]]:
    """What the agents of the run's pods say."""
    for pod, variables in sorted(processes.pods(f"{uid}/").items()):
        token = Path(variables["TRAINYARD_TOKEN_FILE"]).read_text().strip()
        url = f"http://{variables['TRAINYARD_BIND']}:{AGENT_PORT}/stacks"
        request = urllib.request.Request(url, headers={"Authorization": f"Bearer {token}"})
        with urllib.request.urlopen(request, timeout=ANSWER_SECONDS) as answer:  # noqa: S310
            yield pod, answer.read().decode()
