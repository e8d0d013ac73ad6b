"""The way between processes: requests and answers take their time, get lost, or are refused by an overloaded server.

A request that has been sent arrives whatever becomes of its sender, and what it changes is changed though the answer may be
lost: that is what makes a crash of the operator hard. `Session` is what our code takes for aiohttp's.
"""

import asyncio
import json
import random
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Self

import aiohttp
from yarl import URL

from ..cluster.simulated import ApiServer
from .faults import NetworkFaults

Content = tuple[int, Mapping[str, str], Any]
"""Status code, headers and JSON."""
Host = Callable[[str, str, Mapping[str, str], Any], Awaitable[Content]]
"""Answers method, path, query and JSON."""


def serving(server: ApiServer) -> Host:
    """The API server as a host."""

    async def answer(method: str, path: str, query: Mapping[str, str], body: Any) -> Content:
        code, content = server.answer(method, path, query, body)
        return code, {}, content

    return answer


@dataclass
class Network:
    """Hosts by the start of their URLs, and what goes wrong on the way to them."""

    faults: NetworkFaults
    random: random.Random
    hosts: dict[str, Host] = field(default_factory=dict)
    cut_off: set[str] = field(default_factory=set)
    """Hosts from which nothing is heard, not even that they aren't there."""
    on_change: Callable[[str, str, str], bool] = lambda sender, method, path: False
    """Told sender, method and path of whatever may have changed something; if true, no answer comes back."""

    async def carry(self, sender: str, method: str, url: URL, query: Mapping[str, str], body: Any) -> Content:
        """Send a request and wait for its answer. Raises what aiohttp raises."""
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Content] = loop.create_future()
        host = str(url.origin())
        sent = json.dumps(body) if body is not None else None

        def fail(error: Exception) -> None:
            if not answer.done():
                answer.set_exception(error)

        def succeed(content: Content) -> None:
            if not answer.done():
                answer.set_result(content)

        def arrive() -> None:
            if host in self.cut_off:
                return
            if host not in self.hosts:
                fail(aiohttp.ClientConnectionError(f"{host} refuses the connection"))
            elif refusal := self.faults.refusal(self.random, host):
                loop.call_later(self._latency(), succeed, refusal)
            else:
                given = json.loads(sent) if sent is not None else None
                task = loop.create_task(_ask(self.hosts[host], method, url.path, query, given))
                task.add_done_callback(reply)

        def reply(task: asyncio.Task[Content]) -> None:
            if task.cancelled():  # the world has ended
                return
            content = task.result()
            if method != "GET" and self.on_change(sender, method, url.path):
                return
            if host in self.cut_off:
                return
            if self.faults.loses_answer(self.random):
                loop.call_later(self._latency(), fail, aiohttp.ServerDisconnectedError())
            else:
                loop.call_later(self._latency(), succeed, content)

        loop.call_later(self._latency(), arrive)
        return await answer

    def _latency(self) -> float:
        return self.faults.latency(self.random)


async def _ask(host: Host, method: str, path: str, query: Mapping[str, str], body: Any) -> Content:
    return await host(method, path, query, body)


@dataclass(frozen=True)
class Session:
    """As much of `aiohttp.ClientSession` as the operator uses."""

    network: Network
    sender: str

    def request(
        self,
        method: str,
        url: str,
        *,
        json: Any = None,
        params: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
        timeout: aiohttp.ClientTimeout,
    ) -> "_Request":
        """One request."""
        return _Request(self, method, URL(url), params or {}, json, timeout.total)

    def get(self, url: str, **options: Any) -> "_Request":
        """A GET."""
        return self.request("GET", url, **options)

    def put(self, url: str, **options: Any) -> "_Request":
        """A PUT."""
        return self.request("PUT", url, **options)

    async def close(self) -> None:
        """Nothing is open."""


@dataclass
class _Request:
    session: Session
    method: str
    url: URL
    query: Mapping[str, str]
    body: Any
    seconds: float | None
    status: int = 0
    headers: Mapping[str, str] = field(default_factory=dict)
    content: str = ""

    async def __aenter__(self) -> Self:
        async with asyncio.timeout(self.seconds):
            answer = await self.session.network.carry(self.session.sender, self.method, self.url, self.query, self.body)
        self.status, self.headers, content = answer
        self.content = json.dumps(content)
        return self

    async def __aexit__(self, *_: object) -> None: ...

    async def text(self) -> str:
        return self.content

    async def read(self) -> bytes:
        return self.content.encode()
