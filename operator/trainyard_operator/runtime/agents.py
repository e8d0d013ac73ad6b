"""Talks to agents: one long poll a run, to the agent of rank 0 while it lives, and assignments when a decision asks for
them. When that one is silent, others of its group are asked as well, for what they know of it.
"""

import asyncio
import logging
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from datetime import datetime

import aiohttp
from trainyard_api.protocol import SILENT_SECONDS, AgentState, Assignment

from ..cluster.agent_access import AgentAccess, agent_url
from ..cluster.gate import Writing
from ..cluster.protocol import Manifest
from ..decide.observation import Pod
from .store import Key, Store

POLL_SECONDS = 4
"""How long an agent may wait for news before it answers all the same: a node that is lost shows by answers that do not come."""
CALL_SECONDS = 3
"""Deadline of any call, on top of what it asks the agent to wait."""
LAST_CALL_SECONDS = 1
"""Deadline of the call that follows one without an answer; after two of them an agent is silent."""
PAUSE_SECONDS = 0.1
"""Between two polls of one agent: bounds the load of a chatty one. Progress alone is news once a second."""

log = logging.getLogger(__name__)


class AgentError(Exception):
    """An agent does not answer, or refuses."""


class Agents:
    """Follows an agent of each run, and puts what it says in the store. `writing` is entered around assignments."""

    def __init__(
        self,
        store: Store,
        access: AgentAccess,
        now: Callable[[], datetime],
        writing: Writing = nullcontext,
        session: Callable[[], aiohttp.ClientSession] = aiohttp.ClientSession,
    ) -> None:
        self.access = access
        self._store = store
        self._now = now
        self._writing = writing
        self._new_session = session
        self._session: aiohttp.ClientSession | None = None
        self._followed: dict[Key, dict[str, asyncio.Task[None]]] = {}

    async def assign(self, pod: Manifest, run_uid: str, assignment: Assignment) -> None:
        """PUT the assignment. Saying it twice is harmless. Raises AgentError."""
        url = f"{agent_url(pod)}/assignment"
        body = assignment.wire()
        try:
            timeout = aiohttp.ClientTimeout(CALL_SECONDS)
            async with (
                self._writing(),
                self._http().put(url, json=body, timeout=timeout, **self.access.request(pod, run_uid)) as answer,
            ):
                if answer.status != 200:
                    raise AgentError(f"{url}: {answer.status} {(await answer.text())[:500]}")
        except (aiohttp.ClientError, TimeoutError) as error:
            raise AgentError(f"{url}: {error or type(error).__name__}") from error
        self._store.put_assigned(pod["metadata"]["uid"], assignment.attempt)

    def follow(self, key: Key, pods: Sequence[Pod]) -> None:
        """Poll the agents of these pods, and no other ones of this run."""
        known = self._followed.pop(key, {})
        wanted = {pod.uid: pod for pod in pods}
        for uid, task in known.items():
            if uid not in wanted:
                task.cancel()
        if wanted:
            self._followed[key] = {
                uid: known[uid] if uid in known and not known[uid].done() else self._start_poll(key, pod)
                for uid, pod in wanted.items()
            }

    @property
    def followed(self) -> int:
        """Of how many runs an agent is polled."""
        return len(self._followed)

    def forget(self, key: Key) -> None:
        """Stop polling for a run that is gone."""
        self.follow(key, ())

    def _start_poll(self, key: Key, pod: Pod) -> asyncio.Task[None]:
        task = asyncio.create_task(self._poll(key, pod.manifest), name=f"agent of {pod.name}")
        task.add_done_callback(lambda _: self._store.end_silence(pod.uid))
        return task

    async def close(self) -> None:
        """Stop all polls."""
        tasks = [task for each in self._followed.values() for task in each.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._session:
            await self._session.close()

    async def _poll(self, key: Key, pod: Manifest) -> None:
        uid = pod["metadata"]["uid"]
        run = self._store.run(key)
        url = f"{agent_url(pod)}/state"
        known_by = self.access.request(pod, run["metadata"]["uid"] if run else "")
        version, heard, missed = -1, self._now(), 0
        while any(_is_running(known) for known in self._store.pods(key) if known["metadata"]["uid"] == uid):
            wait, seconds = (0, LAST_CALL_SECONDS) if missed else (POLL_SECONDS, POLL_SECONDS + CALL_SECONDS)
            query, timeout = {"since": str(version), "wait": str(wait)}, aiohttp.ClientTimeout(seconds)
            try:
                async with self._http().get(url, params=query, timeout=timeout, **known_by) as answer:
                    if answer.status == 200:
                        state = AgentState.model_validate_json(await answer.read())
                        version, heard, missed = state.version, self._now(), 0
                        self._store.put_agent(key, uid, state)
                    else:
                        log.warning("agent refused", extra={"url": url, "code": answer.status})
            except (aiohttp.ClientError, TimeoutError):  # starting, ending, or lost: the policies tell
                missed += 1
                if missed > 1 and (self._now() - heard).total_seconds() >= SILENT_SECONDS:
                    self._store.put_silence(key, uid, heard)
            await asyncio.sleep(PAUSE_SECONDS)

    def _http(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = self._new_session()
        return self._session


def _is_running(pod: Manifest) -> bool:
    status = pod.get("status", {})
    return status.get("phase") == "Running" and bool(status.get("podIP"))
