"""A Kubernetes cluster, spoken to in raw JSON over aiohttp.

Only pods are read again after they were made: the names of all else hold the start of the run's UID, so one that exists already
is ours, and a forged one merely keeps its own namespace's run from starting.
"""

import asyncio
import hashlib
import json
import logging
from collections.abc import AsyncIterator
from contextlib import nullcontext
from datetime import UTC, datetime

import aiohttp
from trainyard_api.names import API_VERSION, GROUP, KIND, LABEL_RUN, PLURAL
from trainyard_api.run import TrainingRun

from .access import Access, ApiError, read_object
from .gate import Writing
from .pace import Pace, retry_after
from .protocol import ConflictError, GoneError, Manifest, RefusedError

log = logging.getLogger(__name__)

VERBS = {
    (GROUP, PLURAL): {"list", "watch", "delete"},
    (GROUP, f"{PLURAL}/status"): {"update"},
    ("", "pods"): {"create", "get", "list", "watch", "delete"},
    ("", "secrets"): {"create"},
    ("", "services"): {"create"},
    ("networking.k8s.io", "ingresses"): {"create"},
    ("", "events"): {"create"},
}
"""(API group, resource) → verbs that this file and the watches use. The chart grants these and no more, tests compare."""
RESOURCES = {
    "Pod": ("api/v1", "pods"),
    "Secret": ("api/v1", "secrets"),
    "Service": ("api/v1", "services"),
    "Ingress": ("apis/networking.k8s.io/v1", "ingresses"),
}
"""Kind of what is made → group and resource in its path."""
CLUSTER_VERBS = {("", "nodes"): {"list"}}
"""What is asked of the cluster as a whole, where the operator looks after all of it."""
RESTARTS_IN_PLACE = "RestartAllContainersOnContainerExits"
"""The feature by which a kubelet starts containers again as a rule of their pod says (Kubernetes 1.36, beta)."""
NODES_PAGE = 100
"""A node is 4 to 20 kB, mostly names of images."""
PAGE = 500
"""Objects in an answer to a LIST: 10,000 pods take 0.7 s in pages of this size."""
PARALLEL = 16
"""Requests under way at once."""
ATTEMPT_TIMEOUT = aiohttp.ClientTimeout(total=30, sock_connect=10)
DEADLINE_SECONDS = 90.0
"""The whole of a call, with what the server's Retry-After and our own pace add."""
OVERLOADED = (429, 503)
FORBIDDEN = 403
REFUSED = (400, 403, 422)
"""What a POST gets that is invalid, over a quota, or against a policy."""
DEFAULT_HOLD_SECONDS = 1.0


class KubernetesCluster:
    """The cluster behind an API server. `namespaces` are those to watch; none means all of them.

    `writing` is entered around whatever changes the cluster, after all waiting for a turn.
    """

    def __init__(
        self,
        access: Access,
        namespaces: tuple[str, ...] = (),
        pace: Pace | None = None,
        writing: Writing = nullcontext,
    ) -> None:
        self._server = access.server
        self._session = access.session()
        self._namespaces = namespaces
        self._pace = pace or Pace()
        self._writing = writing
        self._parallel = asyncio.Semaphore(PARALLEL)

    async def close(self) -> None:
        """Close all connections."""
        await self._session.close()

    def storage_uri(self, run: TrainingRun) -> str:
        """The run's storage as its pods see it: where a claim is given, it is mounted at the URI's path."""
        return run.spec.storage.uri

    async def create(self, manifest: Manifest) -> Manifest:
        """Make an object; see the protocol. Raises GoneError if the namespace is gone."""
        group, resource = RESOURCES[manifest["kind"]]
        path = f"/{group}/namespaces/{manifest['metadata']['namespace']}/{resource}"
        try:
            return await self._ask("POST", path, manifest)
        except ConflictError:
            if manifest["kind"] != "Pod":
                return manifest
            return await self._existing(f"{path}/{manifest['metadata']['name']}", manifest)
        except ApiError as error:
            if error.code in REFUSED:
                raise RefusedError(error.message) from error
            raise

    async def _existing(self, path: str, wanted: Manifest) -> Manifest:
        """The object that has the wanted one's name, if it has its owner too."""
        try:
            existing = await self._ask("GET", path)
        except GoneError as error:
            raise ConflictError(f"{path} was there a moment ago and is being deleted") from error
        if _owners(existing) != _owners(wanted):
            raise ConflictError(f"{path} exists and belongs to another owner; delete or rename it")
        return existing

    async def delete_pod(self, pod: Manifest, grace_seconds: int | None) -> bool:
        """Delete this very pod; False if it is gone already, or replaced by another of its name."""
        options: Manifest = {"kind": "DeleteOptions", "apiVersion": "v1"}
        options["preconditions"] = {"uid": pod["metadata"]["uid"]}
        if grace_seconds is not None:
            options["gracePeriodSeconds"] = grace_seconds
        try:
            await self._ask("DELETE", _pod_path(pod), options)
        except (ConflictError, GoneError):
            return False
        return True

    async def find_pod(self, pod: Manifest) -> Manifest | None:
        """This very pod as it is now, None if it is gone."""
        try:
            found = await self._ask("GET", _pod_path(pod))
        except GoneError:
            return None
        return found if found["metadata"]["uid"] == pod["metadata"]["uid"] else None

    async def delete_run(self, run: TrainingRun) -> None:
        """Delete this very run, as it was seen; the garbage collector deletes all that it owns."""
        metadata = run.metadata
        options: Manifest = {"kind": "DeleteOptions", "apiVersion": "v1"}
        options["preconditions"] = {"uid": metadata.uid, "resourceVersion": metadata.resource_version}
        path = f"/apis/{API_VERSION}/namespaces/{metadata.namespace}/{PLURAL}/{metadata.name}"
        try:
            await self._ask("DELETE", path, options)
        except GoneError:
            log.debug("run was gone already", extra={"run": metadata.name})

    async def write_status(self, run: Manifest, status: Manifest, *, routine: bool = False) -> Manifest:
        """Replace the run's status if `run` is still current."""
        metadata = run["metadata"]
        path = f"/apis/{API_VERSION}/namespaces/{metadata['namespace']}/{PLURAL}/{metadata['name']}/status"
        return slim_run(await self._ask("PUT", path, run | {"status": status}, routine=routine))

    async def post_event(self, run: Manifest, type: str, reason: str, message: str) -> None:
        """Record an event on the run. The same one again is dropped; a refusal is logged, for a run needs no events."""
        metadata = run["metadata"]
        said = json.dumps([metadata["uid"], type, reason, message])
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        event: Manifest = {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {
                "name": f"{metadata['name']}.{hashlib.sha256(said.encode()).hexdigest()[:16]}",
                "namespace": metadata["namespace"],
            },
            "involvedObject": {
                "apiVersion": API_VERSION,
                "kind": KIND,
                **{name: metadata[name] for name in ("name", "namespace", "uid", "resourceVersion")},
            },
            "type": type,
            "reason": reason,
            "message": message[:1024],
            "firstTimestamp": now,
            "lastTimestamp": now,
            "count": 1,
            "source": {"component": "trainyard-operator"},
            "reportingComponent": "trainyard-operator",
        }
        try:
            await self._ask("POST", f"/api/v1/namespaces/{metadata['namespace']}/events", event, routine=True)
        except ConflictError:
            pass
        except (ApiError, GoneError, aiohttp.ClientError, TimeoutError) as error:
            log.warning("event not recorded", extra={"run": metadata["name"], "reason": reason, "error": str(error)})

    async def restarts_in_place(self) -> bool:
        """Whether all nodes declare that they can; False where nodes may not be listed.

        The scheduler would keep pods with such rules off nodes that don't, so they are used where all do.
        """
        if self._namespaces:
            return False
        node: Manifest | None = None
        try:
            async for node in self._items("/api/v1/nodes", {"limit": str(NODES_PAGE)}):
                if RESTARTS_IN_PLACE not in node["status"].get("declaredFeatures", ()):
                    return False
        except ApiError as error:
            if error.code != FORBIDDEN:
                raise
            return False
        return node is not None

    async def list_runs(self) -> list[Manifest]:
        """All runs in the namespaces that are watched."""
        try:
            runs = await self._list(f"/apis/{API_VERSION}", PLURAL, {}, API_VERSION, KIND)
        except GoneError as error:
            raise GoneError(f"{error}; is the CRD {PLURAL}.{GROUP} installed?") from error
        return [slim_run(run) for run in runs]

    async def list_pods(self) -> list[Manifest]:
        """All pods there that carry our run label."""
        return await self._list("/api/v1", "pods", {"labelSelector": LABEL_RUN}, "v1", "Pod")

    async def _list(self, root: str, plural: str, query: dict[str, str], version: str, kind: str) -> list[Manifest]:
        """All objects of a kind; items of a LIST don't say what they are, so that is added."""
        folders = [f"/namespaces/{namespace}" for namespace in self._namespaces] or [""]
        return [
            {"apiVersion": version, "kind": kind} | item
            for folder in folders
            async for item in self._items(f"{root}{folder}/{plural}", {**query, "limit": str(PAGE)})
        ]

    async def _items(self, path: str, query: dict[str, str]) -> AsyncIterator[Manifest]:
        while True:
            page = await self._ask("GET", path, query=query)
            for item in page["items"]:
                yield item
            if not (following := page["metadata"].get("continue")):
                return
            query = {**query, "continue": following}

    async def _ask(
        self,
        method: str,
        path: str,
        body: Manifest | None = None,
        query: dict[str, str] | None = None,
        *,
        routine: bool = False,
    ) -> Manifest:
        """Send a request and return the object that answers it, waiting out what the server asks to wait for."""
        permit = nullcontext if method == "GET" else self._writing
        async with asyncio.timeout(DEADLINE_SECONDS):
            while True:
                await self._pace.wait(routine=routine)
                async with (
                    self._parallel,
                    permit(),
                    self._session.request(
                        method, self._server + path, json=body, params=query, timeout=ATTEMPT_TIMEOUT
                    ) as answer,
                ):
                    if answer.status not in OVERLOADED:
                        return await read_object(f"{method} {path}", answer)
                    await answer.read()
                    self._pace.hold(retry_after(answer.headers) or DEFAULT_HOLD_SECONDS)


def slim_run(run: Manifest) -> Manifest:
    """A run without what only the API server has a use for, a third of its size."""
    metadata = {name: value for name, value in run["metadata"].items() if name != "managedFields"}
    return run | {"metadata": metadata}


def _pod_path(pod: Manifest) -> str:
    return f"/api/v1/namespaces/{pod['metadata']['namespace']}/pods/{pod['metadata']['name']}"


def _owners(manifest: Manifest) -> set[str]:
    return {owner["uid"] for owner in manifest["metadata"].get("ownerReferences", [])}
