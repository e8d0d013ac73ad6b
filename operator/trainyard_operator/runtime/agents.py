"""Talks to agents: one long poll a run, to the agent of rank 0 while it lives, and assignments when a decision asks for
them.
"""

import asyncio
import logging
from contextlib import nullcontext

import aiohttp
from trainyard_api.protocol import AgentState, Assignment

from ..cluster.gate import Writing
from ..cluster.protocol import Cluster, Manifest
from ..decide.observation import Pod
from .store import Key, Store

POLL_SECONDS = 20
"""How long an agent may wait for news before it answers all the same."""
CALL_SECONDS = 5
"""Deadline of any call, on top of what it asks the agent to wait."""
PAUSE_SECONDS = 0.1
"""Between two polls of one agent: bounds the load of a chatty one. Progress alone is news once a second."""

log = logging.getLogger(__name__)


class AgentError(Exception):
    """An agent does not answer, or refuses."""


class Agents:
    """Follows one agent of each run, and puts what it says in the store. `writing` is entered around assignments."""

    def __init__(self, store: Store, cluster: Cluster, writing: Writing = nullcontext) -> None:
        self._store = store
        self._cluster = cluster
        self._writing = writing
        self._session: aiohttp.ClientSession | None = None
        self._followed: dict[Key, tuple[str, asyncio.Task[None]]] = {}

    async def assign(self, pod: Manifest, run_uid: str, assignment: Assignment) -> None:
        """PUT the assignment. Saying it twice is harmless. Raises AgentError."""
        url = f"{self._cluster.agent_url(pod)}/assignment"
        body = assignment.wire()
        try:
            timeout = aiohttp.ClientTimeout(CALL_SECONDS)
            async with (
                self._writing(),
                self._http().put(url, json=body, headers=self._headers(run_uid), timeout=timeout) as answer,
            ):
                if answer.status != 200:
                    raise AgentError(f"{url}: {answer.status} {(await answer.text())[:500]}")
        except (aiohttp.ClientError, TimeoutError) as error:
            raise AgentError(f"{url}: {error or type(error).__name__}") from error
        self._store.put_assigned(pod["metadata"]["uid"], assignment.attempt)

    def follow(self, key: Key, pod: Pod | None) -> None:
        """Poll this pod's agent, and no other one of this run."""
        uid = pod.uid if pod else ""
        known = self._followed.get(key)
        if known and known[0] == uid and not known[1].done():
            return
        if known:
            known[1].cancel()
            del self._followed[key]
        if pod:
            self._followed[key] = uid, asyncio.create_task(self._poll(key, pod.manifest), name=f"agent of {key}")

    def forget(self, key: Key) -> None:
        """Stop polling for a run that is gone."""
        if known := self._followed.pop(key, None):
            known[1].cancel()

    async def close(self) -> None:
        """Stop all polls."""
        tasks = [task for _, task in self._followed.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._session:
            await self._session.close()

    async def _poll(self, key: Key, pod: Manifest) -> None:
        uid = pod["metadata"]["uid"]
        run = self._store.run(key)
        url = f"{self._cluster.agent_url(pod)}/state"
        headers = self._headers(run["metadata"]["uid"] if run else "")
        timeout = aiohttp.ClientTimeout(POLL_SECONDS + CALL_SECONDS)
        version = -1
        while any(_is_running(known) for known in self._store.pods(key) if known["metadata"]["uid"] == uid):
            try:
                query = {"since": str(version), "wait": str(POLL_SECONDS)}
                async with self._http().get(url, params=query, headers=headers, timeout=timeout) as answer:
                    if answer.status == 200:
                        state = AgentState.model_validate_json(await answer.read())
                        version = state.version
                        self._store.put_agent(key, uid, state)
                    else:
                        log.warning("agent refused", extra={"url": url, "code": answer.status})
            except (aiohttp.ClientError, TimeoutError):
                pass  # starting or ending: the pod's own state says which, and silence has a deadline in the policies
            await asyncio.sleep(PAUSE_SECONDS)

    def _headers(self, run_uid: str) -> dict[str, str]:
        return {"Authorization": f"Bearer {self._cluster.token(run_uid)}"}

    def _http(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession()
        return self._session


def _is_running(pod: Manifest) -> bool:
    status = pod.get("status", {})
    return status.get("phase") == "Running" and bool(status.get("podIP"))
