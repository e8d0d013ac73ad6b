"""An API server in memory: the part of its behaviour that our client and our policies lean on, and nothing else.

The operator speaks to it through its own client (`kubernetes.py`), so what is simulated ends where the network begins. The
contract suite runs on this, on a kind cluster and on the local one, and so keeps this honest. What Kubernetes does with
objects by itself (scheduler, kubelets, garbage collector) is in `trainyard_operator.simulation`.
"""

import itertools
from collections import defaultdict
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from typing import Any

from trainyard_api.names import API_VERSION, KIND, PLURAL

from .protocol import Manifest

Name = tuple[str, str]
"""(namespace, name)"""
Answer = tuple[int, Manifest]
"""Status code and content."""
Watcher = Callable[[str, Manifest], None]
"""Told ADDED, MODIFIED or DELETED, and the object."""

LEASES = "coordination.k8s.io/v1"
KINDS = {
    "nodes": "Node",
    "pods": "Pod",
    "secrets": "Secret",
    "events": "Event",
    "leases": "Lease",
    PLURAL: KIND,
}
VERSIONS = {PLURAL: API_VERSION, "leases": LEASES}
"""Of the kinds that are not in the core group."""
DEFAULT_GRACE_SECONDS = 30
OVER = ("Succeeded", "Failed")


class ApiServer:
    """Objects by kind and name, with a version that counts all changes. Every call is atomic.

    An object that has been handed out is never changed, only replaced: take it as it is.
    """

    def __init__(self, now: Callable[[], datetime], namespaces: tuple[str, ...] = ("team",)) -> None:
        self._now = now
        self._namespaces = namespaces
        self._objects: dict[str, dict[Name, Manifest]] = {plural: {} for plural in KINDS}
        self._watchers: dict[str, list[Watcher]] = defaultdict(list)
        self._pages: dict[str, list[Manifest]] = {}
        self._uids = itertools.count(1)
        self.version = 0

    # ---- what a client sends

    def answer(self, method: str, path: str, query: Mapping[str, str], body: Manifest | None) -> Answer:
        """Take one request."""
        plural, namespace, name, part = _read_path(path)
        if namespace and namespace not in self._namespaces:
            return _failure(404, "NotFound", f'namespaces "{namespace}" not found')
        match method, bool(name), part:
            case "GET", False, "":
                return self._list(plural, namespace, query)
            case "POST", False, "" if body:
                return self._create(plural, namespace, body)
            case "GET", True, "":
                found = self.get(plural, (namespace, name))
                return (200, found) if found else _not_found(plural, name)
            case "DELETE", True, "":
                return self._delete(plural, (namespace, name), body or {})
            case "PUT", True, "status" if body:
                return self._replace_status(plural, (namespace, name), body)
            case "PATCH", True, "" if body:
                return self._patch(plural, (namespace, name), body)
        return _failure(405, "MethodNotAllowed", f"{method} {path}")

    def _list(self, plural: str, namespace: str, query: Mapping[str, str]) -> Answer:
        """All that carry the labels, as they are now; later pages are of the same moment as the first."""
        if token := query.get("continue"):
            if token not in self._pages:
                return _failure(410, "Expired", "the provided continue parameter is too old")
            found = self._pages.pop(token)
        else:
            labels = [label for label in query.get("labelSelector", "").split(",") if label]
            objects = self._objects[plural].values()
            found = [_listed(each) for each in objects if _selected(each, namespace, labels)]
        limit = int(query.get("limit", len(found) or 1))
        metadata = {"resourceVersion": str(self.version)}
        if found[limit:]:
            metadata["continue"] = f"page-{next(self._uids)}"
            self._pages[metadata["continue"]] = found[limit:]
        return 200, {"metadata": metadata, "items": found[:limit]}

    def expire_pages(self) -> None:
        """Forget how unfinished LISTs would go on: the next page of each is 410."""
        self._pages.clear()

    def _create(self, plural: str, namespace: str, body: Manifest) -> Answer:
        name = namespace, body["metadata"]["name"]
        if name in self._objects[plural]:
            return _failure(409, "AlreadyExists", f'{plural} "{name[1]}" already exists')
        return 201, self.add(plural, body)

    def _delete(self, plural: str, name: Name, options: Manifest) -> Answer:
        found = self._objects[plural].get(name)
        if found is None:
            return _not_found(plural, name[1])
        wanted = options.get("preconditions", {}).get("uid")
        if wanted and wanted != found["metadata"]["uid"]:
            return _failure(409, "Conflict", f"the UID in the precondition ({wanted}) does not match")
        return 200, self.delete(plural, name, options.get("gracePeriodSeconds"))

    def _replace_status(self, plural: str, name: Name, body: Manifest) -> Answer:
        found = self._objects[plural].get(name)
        if found is None:
            return _not_found(plural, name[1])
        before, given = found["metadata"], body["metadata"]
        if (given["uid"], given["resourceVersion"]) != (before["uid"], before["resourceVersion"]):
            return _failure(
                409, "Conflict", "the object has been modified; please apply your changes to the latest version"
            )
        status = body.get("status", {})
        if status.get("attempt", 0) < found.get("status", {}).get("attempt", 0):
            return _failure(422, "Invalid", "status: Invalid value: status.attempt never goes back")
        if status == found.get("status"):
            return 200, found
        return 200, self.change(plural, name, status=status)

    def _patch(self, plural: str, name: Name, body: Manifest) -> Answer:
        """A merge patch of spec, for the version that it names."""
        found = self._objects[plural].get(name)
        if found is None:
            return _not_found(plural, name[1])
        if body["metadata"]["resourceVersion"] != found["metadata"]["resourceVersion"]:
            return _failure(
                409, "Conflict", "the object has been modified; please apply your changes to the latest version"
            )
        return 200, self.change(plural, name, spec={**found["spec"], **body["spec"]})

    # ---- what the cluster itself and its users do

    def watch(self, plural: str, watcher: Watcher) -> None:
        """Be told of every change from now on, in order."""
        self._watchers[plural].append(watcher)

    def unwatch(self, plural: str, watcher: Watcher) -> None:
        """Be told no more."""
        self._watchers[plural].remove(watcher)

    def all(self, plural: str) -> list[Manifest]:
        """All objects of a kind."""
        return list(self._objects[plural].values())

    def get(self, plural: str, name: Name) -> Manifest | None:
        """One object."""
        return self._objects[plural].get(name)

    def add(self, plural: str, body: Manifest) -> Manifest:
        """Make an object; it gets its UID here."""
        uid = f"{next(self._uids):08x}-0000-4000-8000-{plural:0>12.12}"
        created = {**body["metadata"], "uid": uid, "creationTimestamp": to_second(self._now()), "generation": 1}
        manifest = {"apiVersion": VERSIONS.get(plural, "v1"), "kind": KINDS[plural], **body, "metadata": created}
        if plural == "pods":
            manifest["status"] = {"phase": "Pending"}
        return self._put(plural, manifest, "ADDED")

    def change(self, plural: str, name: Name, **parts: Manifest) -> Manifest:
        """Replace whole parts of an object."""
        return self._put(plural, {**self._objects[plural][name], **parts}, "MODIFIED")

    def delete(self, plural: str, name: Name, grace_seconds: int | None = None) -> Manifest:
        """Delete an object; a pod that has a node and has not ended gets its grace period, to be removed by its kubelet."""
        found = self._objects[plural][name]
        spec = found.get("spec", {})
        if plural != "pods" or not spec.get("nodeName") or found["status"].get("phase") in OVER:
            grace_seconds = 0
        elif grace_seconds is None:
            grace_seconds = spec.get("terminationGracePeriodSeconds", DEFAULT_GRACE_SECONDS)
        if grace_seconds == 0:
            return self.remove(plural, name)
        metadata = found["metadata"]
        if metadata.get("deletionGracePeriodSeconds", grace_seconds + 1) <= grace_seconds:
            return found
        until = to_second(self._now() + timedelta(seconds=grace_seconds))
        deletion = {"deletionTimestamp": until, "deletionGracePeriodSeconds": grace_seconds}
        return self.change(plural, name, metadata={**metadata, **deletion})

    def remove(self, plural: str, name: Name) -> Manifest:
        """Take an object away at once."""
        found = self._objects[plural].pop(name)
        self.version += 1
        gone = {**found, "metadata": {**found["metadata"], "resourceVersion": str(self.version)}}
        self._tell(plural, "DELETED", gone)
        return gone

    def _put(self, plural: str, manifest: Manifest, event: str) -> Manifest:
        self.version += 1
        manifest["metadata"] = {**manifest["metadata"], "resourceVersion": str(self.version)}
        metadata = manifest["metadata"]
        self._objects[plural][metadata["namespace"], metadata["name"]] = manifest
        self._tell(plural, event, manifest)
        return manifest

    def _tell(self, plural: str, event: str, manifest: Manifest) -> None:
        for watcher in tuple(self._watchers[plural]):
            watcher(event, manifest)


def to_second(time: datetime) -> str:
    """A time as Kubernetes writes it in metadata and in statuses: to the second."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ")


def _read_path(path: str) -> tuple[str, str, str, str]:
    """Plural, namespace, name and sub-resource; empty where there is none."""
    for root in ("/api/v1/", f"/apis/{API_VERSION}/", f"/apis/{LEASES}/"):
        path = path.removeprefix(root)
    parts = path.split("/")
    namespace = parts[1] if parts[0] == "namespaces" else ""
    plural, name, part = ((parts[2:] if namespace else parts) + ["", ""])[:3]
    return plural, namespace, name, part


def _listed(manifest: Manifest) -> Manifest:
    """An item of a LIST does not say what it is."""
    return {name: part for name, part in manifest.items() if name not in ("kind", "apiVersion")}


def _selected(manifest: Manifest, namespace: str, labels: list[str]) -> bool:
    metadata = manifest["metadata"]
    there: Any = metadata.get("labels", {})
    return namespace in ("", metadata["namespace"]) and all(label in there for label in labels)


def _not_found(plural: str, name: str) -> Answer:
    return _failure(404, "NotFound", f'{plural} "{name}" not found')


def _failure(code: int, reason: str, message: str) -> Answer:
    return code, {"kind": "Status", "status": "Failure", "code": code, "reason": reason, "message": message}
