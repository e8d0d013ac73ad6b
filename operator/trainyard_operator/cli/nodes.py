"""`trainyard nodes [forgive NODE]`: the ledger of suspect nodes, which is what the runs of a cluster say of them.

It is read and changed by the user's own rights: listed is what runs say that one may see, and a node is forgiven in those
that one may patch. What the others say still holds, so forgiving ends with 1 as long as one of them says it.
"""

import argparse
import asyncio
import sys
from collections.abc import Coroutine, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime

from trainyard_api.names import ANNOTATION_FORGIVEN, API_VERSION, PLURAL
from trainyard_api.status import ExcludedNode, Status

from ..cluster.protocol import Manifest
from ..decide.observation import format_time, parse_time
from ..decide.suspects import forgive, unforgiven
from . import words
from .asking import ApiServer, ForbiddenError, api_server
from .inputs import InputError

DONE, STILL_EXCLUDED, BAD_INPUT = 0, 1, 2
NO_LEDGER = "this machine is one node, so its runs have no ledger"
HEADER = ("NODE", "CAUSE", "UNTIL", "RUN", "MESSAGE")


@dataclass(frozen=True)
class Entry:
    """What a run says of a node."""

    namespace: str
    name: str
    annotations: dict[str, str]
    excluded: ExcludedNode


def nodes_command(options: argparse.Namespace) -> int:
    """List the nodes that runs keep off."""
    return _code(_list(options.namespace))


def forgive_command(options: argparse.Namespace) -> int:
    """Have runs use a node again."""
    return _code(_forgive(options.namespace, options.node))


def _code(doing: Coroutine[None, None, int]) -> int:
    try:
        return asyncio.run(doing)
    except InputError as error:
        print(*error.mistakes, sep="\n", file=sys.stderr)
        return BAD_INPUT


async def _list(namespace: str | None) -> int:
    async with api_server(NO_LEDGER) as server:
        entries = ledger(await _runs(server, namespace), datetime.now(UTC))
    if entries:
        print(render(entries))
    else:
        print(f"no run of the cluster keeps off a node; {NO_LEDGER}", file=sys.stderr)
    return DONE


async def _forgive(namespace: str | None, node: str) -> int:
    async with api_server(NO_LEDGER) as server:
        now = datetime.now(UTC)
        entries = [each for each in ledger(await _runs(server, namespace), now) if each.excluded.node == node]
        if not entries:
            print(f"no run keeps off {node}; `trainyard nodes` lists those that runs keep off", file=sys.stderr)
            return STILL_EXCLUDED
        code = DONE
        for each in entries:
            run = f"{each.namespace}/{each.name}"
            try:
                await server.ask("PATCH", _path(each.namespace, each.name), forgiving(each, now))
                print(f"run {run} forgives {node}")
            except InputError as error:
                print(f"run {run} still keeps off {node}: {error}", file=sys.stderr)
                code = STILL_EXCLUDED
    return code


async def _runs(server: ApiServer, namespace: str | None) -> list[Manifest]:
    """The runs of a namespace; without one, of all, or of the context's own if its user may see no more."""
    try:
        return await server.list(_path(namespace))
    except ForbiddenError:
        if namespace is not None:
            raise
        print(f"you may not list the runs of all namespaces; these are {server.namespace}'s", file=sys.stderr)
        return await server.list(_path(server.namespace))


def _path(namespace: str | None, name: str | None = None) -> str:
    where = f"namespaces/{namespace}/" if namespace else ""
    return f"/apis/{API_VERSION}/{where}{PLURAL}" + (f"/{name}" if name else "")


def ledger(runs: Iterable[Manifest], now: datetime) -> list[Entry]:
    """What runs say and what holds now, by node and run: neither over nor forgiven."""
    entries = []
    for run in runs:
        metadata = run["metadata"]
        annotations = metadata.get("annotations") or {}
        for excluded in unforgiven(Status.read_stored(run.get("status") or {}), annotations):
            if parse_time(excluded.until) > now:
                entries.append(Entry(metadata["namespace"], metadata["name"], annotations, excluded))
    return sorted(entries, key=lambda each: (each.excluded.node, each.namespace, each.name))


def render(entries: Iterable[Entry]) -> str:
    """A line for each entry. Messages end with what pods have said, which may be several lines."""
    rows = [
        (said.node, said.cause, said.until, f"{each.namespace}/{each.name}", " ".join(said.message.split()))
        for each in entries
        for said in (each.excluded,)
    ]
    return "\n".join(words.table([HEADER, *rows]))


def forgiving(entry: Entry, now: datetime) -> Manifest:
    """The patch of the run that forgives it: as of now, but not from before it was noted if our clock is behind."""
    time = max(now, parse_time(entry.excluded.time))
    value = forgive(entry.annotations, entry.excluded.node, format_time(time))
    return {"metadata": {"annotations": {ANNOTATION_FORGIVEN: value}}}
