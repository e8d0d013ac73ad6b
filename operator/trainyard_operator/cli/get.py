"""`trainyard get [RUN]`: the runs of this home, in the columns that kubectl prints."""

import argparse
import json
import sys
import time
from datetime import UTC, datetime
from typing import Any

from trainyard_api.crd import COLUMNS

from ..cluster.home import Home
from ..cluster.protocol import Manifest
from . import words

WATCH_SECONDS = 0.5
WIDE = (
    ("Steps", "integer", ".status.progress.steps"),
    ("Attempt", "integer", ".status.attempt"),
    ("Tokens/s", "number", ".status.progress.tokensPerSecond"),
    ("Message", "string", ".status.message"),
)
"""(heading, type, path) of what `-o wide` adds."""


def get_command(options: argparse.Namespace) -> int:
    """Print runs, once or at each change."""
    home = Home(options.home)
    shown = None
    while True:
        runs = selected(home, options.namespace, options.run)
        if not runs and not options.watch:
            what = f"run {options.run}" if options.run else "runs"
            print(f"no {what} in {home.root}; use --home and --namespace to look elsewhere", file=sys.stderr)
            return 1 if options.run else 0
        text = render(runs, options.output, datetime.now(UTC))
        if text != shown:
            print(text, flush=True)
            shown = text
        if not options.watch:
            return 0
        time.sleep(WATCH_SECONDS)


def selected(home: Home, namespace: str | None, name: str | None) -> list[Manifest]:
    """The runs of a namespace and name, where these are given."""
    return [
        run
        for run in home.runs()
        if namespace in (None, run["metadata"]["namespace"]) and name in (None, run["metadata"]["name"])
    ]


def render(runs: list[Manifest], output: str | None, now: datetime) -> str:
    """The runs as a table, JSON or YAML."""
    if output in ("json", "yaml"):
        shown = runs[0] if len(runs) == 1 else {"apiVersion": "v1", "kind": "List", "items": runs}
        if output == "json":
            return json.dumps(shown, indent=2)
        import yaml

        return yaml.safe_dump(shown, sort_keys=False, allow_unicode=True).rstrip()
    columns = COLUMNS + (WIDE if output == "wide" else ())
    rows = [["NAME", *(heading.upper() for heading, _, _ in columns)]]
    for run in runs:
        cells = [_cell(run, kind, path, now) for _, kind, path in columns]
        rows.append([run["metadata"]["name"], *cells])
    return "\n".join(words.table(rows))


def _cell(run: Manifest, kind: str, path: str, now: datetime) -> str:
    value: Any = run
    for key in path.strip(".").split("."):
        value = (value or {}).get(key)
    if value is None:
        return ""
    if kind == "date":
        return words.duration((now - datetime.fromisoformat(value)).total_seconds())
    return f"{value:.6g}" if isinstance(value, float) else str(value)
