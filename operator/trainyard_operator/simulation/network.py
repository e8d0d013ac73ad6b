"""The way between processes: requests and answers take their time, get lost, or are refused by an overloaded server.

A request that has been sent arrives whatever becomes of its sender, and what it changes is changed though the answer may be
lost: that is what makes a crash of the operator hard. `Session` is what our code takes for aiohttp's.
"""

import asyncio
import json
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextvars import Context, copy_context
from dataclasses import dataclass, field
from typing import Any, Self

import aiohttp
from yarl import URL

from ..cluster.protocol import Manifest
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
    server: ApiServer | None = None
    """That watches are of."""
    cut_off: set[str] = field(default_factory=set)
    """Hosts from which nothing is heard, not even that they aren't there."""
    isolated: set[str] = field(default_factory=set)
    """Senders that reach nobody, and whom nobody reaches."""
    gone: set[str] = field(default_factory=set)
    """Senders that are no more: they send nothing, whatever their tasks still do."""
    on_send: Callable[[str, str, str], None] = lambda sender, method, path: None
    """Told sender, method and path of whatever is sent and may change something."""
    on_change: Callable[[str, str, str], bool] = lambda sender, method, path: False
    """Told the same when it may have changed something; if true, no answer comes back."""
    outside: Context = field(default_factory=copy_context)
    """What is on its way is in no process's hands."""

    async def carry(self, sender: str, method: str, url: URL, query: Mapping[str, str], body: Any) -> Content:
        """Send a request and wait for its answer. Raises what aiohttp raises."""
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Content] = loop.create_future()
        host, inside = str(url.origin()), copy_context()
        sent = json.dumps(body) if body is not None else None
        if sender in self.gone:
            return await answer
        if method != "GET":
            self.on_send(sender, method, url.path)

        def fail(error: Exception) -> None:
            if not answer.done():
                answer.set_exception(error)

        def succeed(content: Content) -> None:
            if not answer.done():
                answer.set_result(content)

        def later(do: Callable[[Any], None], argument: Any) -> None:
            loop.call_later(self.latency(), do, argument, context=inside)

        def arrive() -> None:
            if host in self.cut_off or sender in self.isolated:
                return
            if host not in self.hosts:
                loop.call_soon(fail, aiohttp.ClientConnectionError(f"{host} refuses the connection"), context=inside)
            elif refusal := self.faults.refusal(self.random, host):
                later(succeed, refusal)
            else:
                given = json.loads(sent) if sent is not None else None
                asked = _ask(self.hosts[host], method, url.path, query, given)
                loop.create_task(asked, context=self.outside).add_done_callback(reply)

        def reply(task: asyncio.Task[Content]) -> None:
            if task.cancelled():  # the world has ended
                return
            content = task.result()
            if method != "GET" and self.on_change(sender, method, url.path):
                return
            if host in self.cut_off or sender in self.isolated:
                return
            if self.faults.loses_answer(self.random):
                later(fail, aiohttp.ServerDisconnectedError())
            else:
                later(succeed, content)

        loop.call_later(self.latency(), arrive, context=self.outside)
        return await answer

    def latency(self) -> float:
        """Seconds that a message is on its way."""
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
        data: str | None = None,
        params: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
        timeout: aiohttp.ClientTimeout,
    ) -> "_Request":
        """One request."""
        body = json if data is None else _loads(data)
        kind = _Watch if params and "watch" in params else _Request
        return kind(self, method, URL(url), params or {}, body, timeout)

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
    timeout: aiohttp.ClientTimeout
    status: int = 0
    headers: Mapping[str, str] = field(default_factory=dict)
    said: str = ""

    async def __aenter__(self) -> Self:
        async with asyncio.timeout(self.timeout.total):
            answer = await self.session.network.carry(self.session.sender, self.method, self.url, self.query, self.body)
        self.status, self.headers, content = answer
        self.said = json.dumps(content)
        return self

    async def __aexit__(self, *_: object) -> None: ...

    async def text(self) -> str:
        return self.said

    async def read(self) -> bytes:
        return self.said.encode()


@dataclass
class _Watch(_Request):
    """A watch: a line for each change, a moment after it was made. Only that of a Lease is spoken to the server like this."""

    events: "asyncio.Queue[bytes]" = field(default_factory=asyncio.Queue)
    inside: Context = field(default_factory=copy_context)

    async def __aenter__(self) -> Self:
        async with asyncio.timeout(self.timeout.sock_connect):
            answer = await self.session.network.carry(self.session.sender, "GET", self.url, {}, None)
        self.status, self.headers, content = answer
        self.said = json.dumps(content)
        if self.status == 200 and (server := self.session.network.server):
            plural = self.url.name
            server.watch(plural, self._happened)
            for each in server.all(plural):
                if int(each["metadata"]["resourceVersion"]) > int(self.query.get("resourceVersion", 0)):
                    self._happened("MODIFIED", each)
        return self

    async def __aexit__(self, *_: object) -> None:
        if self.status == 200 and (server := self.session.network.server):
            server.unwatch(self.url.name, self._happened)

    @property
    def content(self) -> AsyncIterator[bytes]:
        return self._lines()

    async def _lines(self) -> AsyncIterator[bytes]:
        while True:
            async with asyncio.timeout(self.timeout.sock_read):
                line = await self.events.get()
            yield line

    def _happened(self, event: str, manifest: Manifest) -> None:
        network, line = self.session.network, json.dumps({"type": event, "object": manifest}).encode()
        if self.session.sender not in network.isolated:
            loop = asyncio.get_running_loop()
            loop.call_later(network.latency(), self.events.put_nowait, line, context=self.inside)


def _loads(text: str) -> Any:
    return json.loads(text)
