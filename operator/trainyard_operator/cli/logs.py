"""`trainyard logs RUN`: what the workers have written, pod by pod in the order in which they were made."""

import argparse
import sys
import time
from pathlib import Path

from ..cluster.home import Home
from ..cluster.protocol import Manifest
from .get import selected

FOLLOW_SECONDS = 0.2


def logs_command(options: argparse.Namespace) -> int:
    """Print the logs of a run's pods; with --follow, go on with what is added and with new pods."""
    home = Home(options.home)
    runs = selected(home, options.namespace, options.run)
    if len(runs) != 1:
        found = "; ".join(run["metadata"]["namespace"] for run in runs)
        where = f"is in several namespaces: {found}; use --namespace" if runs else f"is not in {home.root}; use --home"
        print(f"run {options.run} {where}", file=sys.stderr)
        return 1
    positions: dict[Path, int] = {}
    last: Path | None = None
    while True:
        for log in logs_of(home, runs[0], options.stage, options.worker):
            with open(log, "rb") as file:
                file.seek(positions.get(log, 0))
                if added := file.read():
                    if log != last:
                        print(f"==> {log.stem}", flush=True)
                        last = log
                    sys.stdout.buffer.write(added)
                    sys.stdout.buffer.flush()
                positions[log] = file.tell()
        if not options.follow:
            return 0
        time.sleep(FOLLOW_SECONDS)


def logs_of(home: Home, run: Manifest, stage: str | None, worker: int | None) -> list[Path]:
    """The log files of a run's pods `<run>-<stage>-<worker>-<attempt>`, by attempt and worker."""
    name = run["metadata"]["name"]
    found = []
    for file in (home.folder(run["metadata"]["namespace"], name) / "logs").glob(f"{name}-*.log"):
        of_stage, of_worker, attempt = file.stem.removeprefix(f"{name}-").rsplit("-", 2)
        if stage in (None, of_stage) and worker in (None, int(of_worker)):
            found.append((int(attempt), int(of_worker), file))
    return [file for _, _, file in sorted(found)]
