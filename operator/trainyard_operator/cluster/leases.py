"""One Lease of the API server (coordination.k8s.io/v1): read, watched, and written only over what was read.

Its calls have a session of their own, wait for nobody's turn, and are short: when the server is slow, two fit between the
time when a renewal is due and its deadline.

Where the operator is a Deployment, that owns the Lease: the garbage collector takes it away with the Deployment, and nobody
makes it again for one that is gone.
"""

import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

import aiohttp

from ..runtime.election import LEASE_SECONDS, Record
from .access import Access, read_object
from .protocol import GoneError, Manifest

VERBS = {("coordination.k8s.io", "leases"): {"create", "get", "patch", "watch"}, ("apps", "deployments"): {"get"}}
"""(API group, resource) → verbs that this file uses, in the Lease's namespace."""
CALL_SECONDS = 2.5
CALL_TIMEOUT = aiohttp.ClientTimeout(total=CALL_SECONDS)
WATCH_TIMEOUT = aiohttp.ClientTimeout(total=None, sock_connect=CALL_SECONDS, sock_read=LEASE_SECONDS)
"""A leader writes every 2 s, so silence means that it or the connection is dead."""


class Lease:
    """The Lease of that name, whether it is there or not. Writes fail with a ConflictError if it has changed.

    `deployment` is the name of the one that is to own it, in its namespace; none if empty.
    """

    def __init__(self, access: Access, namespace: str, name: str, deployment: str = "") -> None:
        self.name = name
        self._deployment = deployment
        self._deployment_url = f"{access.server}/apis/apps/v1/namespaces/{namespace}/deployments/{deployment}"
        self._namespace = namespace
        self._url = f"{access.server}/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases"
        self._session = access.session()

    async def close(self) -> None:
        """Close all connections."""
        await self._session.close()

    async def read(self) -> Record | None:
        """What it says, None if it isn't there."""
        try:
            return _record(await self._ask("GET", f"{self._url}/{self.name}"))
        except GoneError:
            return None

    async def changes(self, since: Record | None) -> AsyncIterator[Record | None]:
        """What it says after each change; ends when the server ends it or doesn't remember `since`."""
        query = {"watch": "true", "fieldSelector": f"metadata.name={self.name}"}
        if since:
            query["resourceVersion"] = str(since.version)
        async with self._session.get(self._url, params=query, timeout=WATCH_TIMEOUT) as answer:
            if answer.status >= 400:
                await read_object(f"WATCH {self._url}", answer)
            async for line in answer.content:
                event = json.loads(line)
                if event["type"] == "ERROR":
                    return
                yield None if event["type"] == "DELETED" else _record(event["object"])

    async def write(self, over: Record | None, holder: str) -> Record:
        """Enter a holder, or none (""), in the Lease that says `over`; make it if there is none.

        Raises GoneError, also if the Deployment is that is to own it.
        """
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        spec: Manifest = {"holderIdentity": holder, "leaseDurationSeconds": LEASE_SECONDS, "renewTime": now}
        if over is None:
            metadata = {"name": self.name, "namespace": self._namespace, **await self._owned()}
            lease = {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": metadata}
            spec |= {"acquireTime": now, "leaseTransitions": 0}
            return _record(await self._ask("POST", self._url, lease | {"spec": spec}))
        owned: Manifest = {}
        if holder and holder != over.holder:
            spec |= {"acquireTime": now, "leaseTransitions": over.transitions + 1}
            owned = await self._owned()
        patch = {"metadata": {"resourceVersion": str(over.version), **owned}, "spec": spec}
        return _record(await self._ask("PATCH", f"{self._url}/{self.name}", patch))

    async def _owned(self) -> Manifest:
        """What the metadata of the Lease says of its owner."""
        if not self._deployment:
            return {}
        found = await self._ask("GET", self._deployment_url)
        owner = {"apiVersion": "apps/v1", "kind": "Deployment", "name": self._deployment}
        return {"ownerReferences": [owner | {"uid": found["metadata"]["uid"]}]}

    async def _ask(self, method: str, url: str, body: Manifest | None = None) -> Manifest:
        kind = "application/merge-patch+json" if method == "PATCH" else "application/json"
        given: dict[str, Any] = {} if body is None else {"data": json.dumps(body), "headers": {"Content-Type": kind}}
        async with self._session.request(method, url, timeout=CALL_TIMEOUT, **given) as answer:
            return await read_object(f"{method} {url}", answer)


def _record(lease: Manifest) -> Record:
    spec = lease.get("spec", {})
    return Record(
        holder=spec.get("holderIdentity") or "",
        version=int(lease["metadata"]["resourceVersion"]),
        transitions=spec.get("leaseTransitions") or 0,
    )
