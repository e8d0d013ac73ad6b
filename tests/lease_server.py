"""The part of an API server that an election needs, over real HTTP: one Lease with resourceVersions, and its watch."""

import asyncio
import json
from typing import Any, NoReturn

from aiohttp import web

LEASES = "/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases"
DEPLOYMENT = "/apis/apps/v1/namespaces/{namespace}/deployments/{name}"


class LeaseServer:
    """Routes for any application whose runner cancels the handlers of those who are gone: it counts who watches."""

    def __init__(self) -> None:
        self.lease: dict[str, Any] | None = None
        self.deployment: str | None = "1-2-3"
        """The UID of the operator's Deployment; None when that is gone."""
        self.looked_up = 0
        """How often that was asked for."""
        self.watches = 0
        """How many there are that see each change."""
        self.answers = asyncio.Event()
        """Unless set, requests about the Lease get no answer, though they arrive and are carried out."""
        self.answers.set()
        self._version = 0
        self._changed = asyncio.Event()
        self._events: list[dict[str, Any]] = []

    @property
    def holder(self) -> str:
        """Who holds the Lease, "" if nobody does or there is none."""
        return str(self.lease["spec"]["holderIdentity"]) if self.lease else ""

    @property
    def owners(self) -> list[str]:
        """UIDs of those that it goes with."""
        return [owner["uid"] for owner in (self.lease or {}).get("metadata", {}).get("ownerReferences", ())]

    def add_to(self, app: web.Application) -> None:
        """Serve it."""
        app.router.add_get(LEASES, self._watch)
        app.router.add_post(LEASES, self._create)
        app.router.add_get(f"{LEASES}/{{name}}", self._get)
        app.router.add_patch(f"{LEASES}/{{name}}", self._patch)
        app.router.add_get(DEPLOYMENT, self._own)

    def delete(self) -> None:
        """As an administrator does."""
        self._tell("DELETED")
        self.lease = None

    def usurp(self, holder: str) -> None:
        """Enter another holder, as nobody should."""
        assert self.lease
        self.lease = self.lease | {"spec": self.lease["spec"] | {"holderIdentity": holder}}
        self._tell("MODIFIED")

    async def _get(self, request: web.Request) -> web.Response:
        return await self._answer(200) if self.lease else _refused(404)

    async def _own(self, request: web.Request) -> web.Response:
        self.looked_up += 1
        return web.json_response({"metadata": {"uid": self.deployment}}) if self.deployment else _refused(404)

    async def _create(self, request: web.Request) -> web.Response:
        if self.lease:
            return _refused(409)
        self.lease = await request.json()
        self._tell("ADDED")
        return await self._answer(201)

    async def _patch(self, request: web.Request) -> web.Response:
        assert request.content_type == "application/merge-patch+json"
        patch = await request.json()
        if self.lease is None:
            return _refused(404)
        if patch["metadata"]["resourceVersion"] != self.lease["metadata"]["resourceVersion"]:
            return _refused(409)
        self.lease = {
            name: self.lease[name] | patch.get(name, {}) for name in self.lease if name in ("metadata", "spec")
        }
        self._tell("MODIFIED")
        return await self._answer(200)

    async def _answer(self, code: int) -> web.Response:
        answer = web.json_response(self.lease, status=code)
        await self.answers.wait()
        return answer

    async def _watch(self, request: web.Request) -> web.StreamResponse:
        stream = web.StreamResponse()
        await stream.prepare(request)
        self.watches += 1
        try:
            await self._stream(stream, int(request.query.get("resourceVersion", 0)))
        except ConnectionResetError:
            return stream
        finally:
            self.watches -= 1

    async def _stream(self, stream: web.StreamResponse, since: int) -> NoReturn:
        told = 0
        while True:
            changed = self._changed
            for event in self._events[told:]:
                if int(event["object"]["metadata"]["resourceVersion"]) > since:
                    await stream.write(json.dumps(event).encode() + b"\n")
            told = len(self._events)
            if changed is self._changed:
                await changed.wait()

    def _tell(self, event: str) -> None:
        assert self.lease
        self._version += 1
        self.lease = self.lease | {"metadata": self.lease["metadata"] | {"resourceVersion": str(self._version)}}
        self._events.append({"type": event, "object": self.lease})
        self._changed.set()
        self._changed = asyncio.Event()


def _refused(code: int) -> web.Response:
    return web.json_response({"kind": "Status", "code": code, "message": "refused"}, status=code)
