"""A run that was applied to a cluster, as its user changes or deletes it: in the current context of KUBECONFIG, by the
user's own rights. The operator is not asked; it sees what has changed.
"""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
from trainyard_api.names import API_VERSION, LABEL_RUN, PLURAL

from ..cluster.access import Access, AccessError, find_connection
from ..cluster.protocol import Manifest
from .inputs import InputError

CALL = aiohttp.ClientTimeout(total=30, sock_connect=10)
LOOK_SECONDS = 0.5
MEDIA_TYPES = {"PATCH": "application/merge-patch+json"}


class Applied:
    """One run of a cluster. Raises InputError, in the API server's words, if something can't be done."""

    def __init__(self, session: aiohttp.ClientSession, server: str, namespace: str, name: str) -> None:
        self._session, self._server = session, server
        self.namespace, self.name = namespace, name
        self._run = f"/apis/{API_VERSION}/namespaces/{namespace}/{PLURAL}/{name}"
        self._pods = f"/api/v1/namespaces/{namespace}/pods"

    async def read(self) -> Manifest:
        """The run as it is now."""
        return await self._ask("GET", self._run)

    async def change_spec(self, **fields: object) -> None:
        """Change fields of its spec."""
        await self._ask("PATCH", self._run, {"spec": fields})

    async def delete(self) -> None:
        """Delete the run; all that it owns goes after it."""
        await self._ask("DELETE", self._run)

    async def pods(self) -> list[Manifest]:
        """Its pods, those that have ended too."""
        return list((await self._ask("GET", f"{self._pods}?labelSelector={LABEL_RUN}%3D{self.name}"))["items"])

    async def run_pod(self, pod: Manifest, seconds: float) -> str:
        """Have a pod of ours do its work, and return what was wrong with it: nothing, if it has succeeded."""
        name = pod["metadata"]["name"]
        await self._ask("POST", self._pods, pod)
        try:
            async with asyncio.timeout(seconds):
                while True:
                    status = (await self._ask("GET", f"{self._pods}/{name}"))["status"]
                    if status.get("phase") in ("Succeeded", "Failed"):
                        return "" if status["phase"] == "Succeeded" else _why(status)
                    await asyncio.sleep(LOOK_SECONDS)
        except TimeoutError:
            return f"it has not ended within {seconds:.0f} s; see `kubectl describe pod {name}`"
        finally:
            await self._ask("DELETE", f"{self._pods}/{name}")

    async def _ask(self, method: str, path: str, body: Manifest | None = None) -> Manifest:
        given = None if body is None else json.dumps(body)
        headers = {"Content-Type": MEDIA_TYPES.get(method, "application/json")}
        try:
            async with self._session.request(
                method, self._server + path, data=given, headers=headers, timeout=CALL
            ) as answer:
                content: Any = await answer.json(content_type=None)
        except (aiohttp.ClientError, TimeoutError, ValueError) as error:
            why = str(error) or type(error).__name__
            raise InputError(f"{self._server}: {why}; see whether `kubectl get trainingruns` works") from None
        if answer.status >= 400:
            raise InputError(f"{self._server}: {content.get('message', answer.status)}")
        return dict(content)


def _why(status: Manifest) -> str:
    """What a pod that has failed says of it."""
    for container in status.get("containerStatuses", ()):
        ended = container["state"].get("terminated", {})
        if text := ended.get("message", "").strip() or ended.get("reason", ""):
            return str(text)
    return str(status.get("message") or status.get("reason") or "it failed")


@asynccontextmanager
async def applied(namespace: str | None, name: str) -> AsyncIterator[Applied]:
    """The run of that name; without a namespace in the context's own."""
    try:
        connection = find_connection()
        access = Access(connection, lambda method, url, code: None)
    except AccessError as error:
        raise InputError(f"run {name}: not on this machine, and no cluster to look on: {error}") from None
    async with access.session() as session:
        yield Applied(session, access.server, namespace or connection.default_namespace or "default", name)
