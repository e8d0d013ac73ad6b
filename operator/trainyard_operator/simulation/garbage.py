"""Kubernetes' garbage collector: what belonged to a run goes a moment after it, also what was made when the run had gone."""

import asyncio
from collections.abc import Callable
from functools import partial

from trainyard_api.names import PLURAL

from ..cluster.protocol import Manifest
from ..cluster.simulated import ApiServer, Name

COLLECT_SECONDS = 1.0
"""From the end of an owner to the deletion of what it owned."""
OWNED = ("pods", "secrets")


def collect_garbage(server: ApiServer) -> None:
    """Do so from now on."""

    def run_changed(event: str, run: Manifest) -> None:
        if event == "DELETED":
            _later(COLLECT_SECONDS, collect, run["metadata"]["uid"])

    def collect(owner: str) -> None:
        for plural in OWNED:
            for each in server.all(plural):
                if owner in _owners(each) and not each["metadata"].get("deletionTimestamp"):
                    server.delete(plural, _name(each))

    def made(plural: str, event: str, manifest: Manifest) -> None:
        if event == "ADDED":
            _later(COLLECT_SECONDS, collect_if_orphaned, plural, manifest)

    def collect_if_orphaned(plural: str, manifest: Manifest) -> None:
        found = server.get(plural, _name(manifest))
        if found is None or found["metadata"]["uid"] != manifest["metadata"]["uid"]:
            return
        if not _owners(manifest) & {run["metadata"]["uid"] for run in server.all(PLURAL)}:
            server.delete(plural, _name(manifest))

    for plural in OWNED:
        server.watch(plural, partial(made, plural))
    server.watch(PLURAL, run_changed)


def _later(seconds: float, do: Callable[..., object], *arguments: object) -> None:
    asyncio.get_running_loop().call_later(seconds, do, *arguments)


def _name(manifest: Manifest) -> Name:
    return manifest["metadata"]["namespace"], manifest["metadata"]["name"]


def _owners(manifest: Manifest) -> set[str]:
    return {owner["uid"] for owner in manifest["metadata"].get("ownerReferences", ())}
