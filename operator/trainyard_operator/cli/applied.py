"""A run that was applied to a cluster, as its user changes or deletes it: in the current context of KUBECONFIG, by the
user's own rights. The operator is not asked; it sees what has changed.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from trainyard_api.names import API_VERSION, LABEL_RUN, PLURAL

from ..cluster.protocol import Manifest
from .asking import ApiServer, api_server

LOOK_SECONDS = 0.5


class Applied:
    """One run of a cluster. Raises InputError, in the API server's words, if something can't be done."""

    def __init__(self, server: ApiServer, namespace: str, name: str) -> None:
        self._server = server
        self.namespace, self.name = namespace, name
        self._run = f"/apis/{API_VERSION}/namespaces/{namespace}/{PLURAL}/{name}"
        self._pods = f"/api/v1/namespaces/{namespace}/pods"

    async def read(self) -> Manifest:
        """The run as it is now."""
        return await self._server.ask("GET", self._run)

    async def change_spec(self, **fields: object) -> None:
        """Change fields of its spec."""
        await self._server.ask("PATCH", self._run, {"spec": fields})

    async def delete(self) -> None:
        """Delete the run; all that it owns goes after it."""
        await self._server.ask("DELETE", self._run)

    async def pods(self) -> list[Manifest]:
        """Its pods, those that have ended too."""
        return list((await self._server.ask("GET", f"{self._pods}?labelSelector={LABEL_RUN}%3D{self.name}"))["items"])

    async def secret(self, name: str) -> Manifest:
        """A Secret beside it."""
        return await self._server.ask("GET", f"/api/v1/namespaces/{self.namespace}/secrets/{name}")

    async def run_pod(self, pod: Manifest, seconds: float) -> str:
        """Have a pod of ours do its work, and return what was wrong with it: nothing, if it has succeeded."""
        name = pod["metadata"]["name"]
        await self._server.ask("POST", self._pods, pod)
        try:
            async with asyncio.timeout(seconds):
                while True:
                    status = (await self._server.ask("GET", f"{self._pods}/{name}"))["status"]
                    if status.get("phase") in ("Succeeded", "Failed"):
                        return "" if status["phase"] == "Succeeded" else _why(status)
                    await asyncio.sleep(LOOK_SECONDS)
        except TimeoutError:
            return f"it has not ended within {seconds:.0f} s; see `kubectl describe pod {name}`"
        finally:
            await self._server.ask("DELETE", f"{self._pods}/{name}")


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
    async with api_server(f"run {name}: not on this machine") as server:
        yield Applied(server, namespace or server.namespace, name)
