"""The API server of the current context of KUBECONFIG, asked by the user's own rights and answered in its own words."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlencode

import aiohttp

from ..cluster.access import Access, AccessError, find_connection
from ..cluster.protocol import Manifest
from .inputs import InputError

CALL = aiohttp.ClientTimeout(total=30, sock_connect=10)
MEDIA_TYPES = {"PATCH": "application/merge-patch+json"}
PAGE = 500


class ForbiddenError(InputError):
    """The user may not do that."""


class ApiServer:
    """A cluster's API server, and the namespace that its user works in."""

    def __init__(self, session: aiohttp.ClientSession, url: str, namespace: str) -> None:
        self._session, self._url = session, url
        self.namespace = namespace

    async def ask(self, method: str, path: str, body: Manifest | None = None) -> Manifest:
        """The object that answers a request. Raises InputError, in the server's words, if there is none."""
        given = None if body is None else json.dumps(body)
        headers = {"Content-Type": MEDIA_TYPES.get(method, "application/json")}
        try:
            async with self._session.request(
                method, self._url + path, data=given, headers=headers, timeout=CALL
            ) as answer:
                content: Any = await answer.json(content_type=None)
        except (aiohttp.ClientError, TimeoutError, ValueError) as error:
            why = str(error) or type(error).__name__
            raise InputError(f"{self._url}: {why}; see whether `kubectl get trainingruns` works") from None
        if answer.status >= 400:
            kind = ForbiddenError if answer.status == 403 else InputError
            raise kind(f"{self._url}: {content.get('message', answer.status)}")
        return dict(content)

    async def list(self, path: str) -> list[Manifest]:
        """All objects of a collection, by pages."""
        query: dict[str, str | int] = {"limit": PAGE}
        items: list[Manifest] = []
        while True:
            page = await self.ask("GET", f"{path}?{urlencode(query)}")
            items += page["items"]
            if not (following := page["metadata"].get("continue")):
                return items
            query["continue"] = following


@asynccontextmanager
async def api_server(otherwise: str) -> AsyncIterator[ApiServer]:
    """The current context's. `otherwise` is said where there is none: why a cluster is meant."""
    try:
        connection = find_connection()
        access = Access(connection, lambda method, url, code: None)
    except AccessError as error:
        raise InputError(f"{otherwise}, and no cluster to look on: {error}") from None
    async with access.session() as session:
        yield ApiServer(session, access.server, connection.default_namespace or "default")
