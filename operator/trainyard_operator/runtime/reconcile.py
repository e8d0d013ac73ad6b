"""One pass over one run: observe → decide → act → write the status once, if it changed → post events.

Nothing here decides anything, and nothing survives a pass but what is in the store and the cluster: a pass may be cut off
at any point and simply happens again.
"""

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime

from trainyard_api.run import Metadata, TrainingRun
from trainyard_api.status import FINISHED, Status

from ..cluster.agent_access import speaks_tls
from ..cluster.gate import NotLeaderError
from ..cluster.pace import progress_seconds
from ..cluster.protocol import Cluster, ConflictError, GoneError, Manifest, RefusedError
from ..decide.decide import decide
from ..decide.decision import (
    Action,
    Assign,
    CreatePod,
    CreateSecret,
    CreateWay,
    Decision,
    DeletePod,
    DeleteRun,
    Event,
    LookAt,
)
from ..decide.observation import Observation, Pod, Settings, read_pod, read_run
from .agents import CALL_SECONDS, AgentError, Agents
from .store import Key, Store

ACTIONS_AT_ONCE = 32
"""Actions of one pass that may be in flight together."""
ORDER = (DeletePod, CreateSecret | CreatePod | CreateWay, LookAt, Assign, DeleteRun)
"""A kubelet that finds no Secret yet asks again, and after a failure it is there."""
CLOCK_STEP_SECONDS = 1.0
"""A clock that gains or loses more between two passes was set, or the machine was suspended."""

log = logging.getLogger(__name__)

Spec = tuple[TrainingRun, tuple[str, ...]]
"""A run, and the mistakes in it."""


@dataclass(frozen=True)
class _Read:
    """What a run's manifest was read as: as long as it is the same, most passes see nothing else that is new."""

    manifest: Manifest
    run: TrainingRun
    errors: tuple[str, ...]
    status: Status


class Reconciler:
    """Brings runs, one pass at a time, nearer to what their specs ask for."""

    def __init__(
        self,
        store: Store,
        cluster: Cluster,
        agents: Agents,
        settings: Settings,
        now: Callable[[], datetime],
        on_status: Callable[[Key, Status, Status], None] = lambda key, old, new: None,
    ) -> None:
        """`on_status` is called with key, old and new status after each write of one."""
        self._store = store
        self._cluster = cluster
        self._agents = agents
        self._settings = settings
        self._now = now
        self._on_status = on_status
        self._since = self._seen = now()
        self._seen_at = asyncio.get_running_loop().time()
        self._specs: dict[Key, tuple[tuple[str, int], Spec]] = {}
        self._read: dict[Key, _Read] = {}
        self._limit = asyncio.Semaphore(ACTIONS_AT_ONCE)
        self._posting: set[asyncio.Task[None]] = set()

    async def reconcile(self, key: Key) -> float | None:
        """One pass. Returns the seconds after which to look again, None if only a change can matter."""
        manifest = self._store.run(key)
        if manifest is None or manifest["metadata"].get("deletionTimestamp"):
            self._agents.forget(key)
            self._specs.pop(key, None)
            self._read.pop(key, None)
            return None
        seen = self._observe(key, manifest)
        decision = decide(seen)
        refused: ConflictError | RefusedError | None = None
        try:
            await self._perform(seen, decision)
        except (ConflictError, RefusedError) as error:
            refused = error  # the next pass puts it into the status
        self._store.put_refusal(key, str(refused or ""))
        wrote = decision.status != seen.status
        if wrote:
            try:
                status = decision.status.wire()
                self._store.put(await self._cluster.write_status(manifest, status, routine=decision.routine))
            except GoneError:
                self._store.remove(manifest)
                return None
            self._on_status(key, seen.status, decision.status)
            if decision.events and decision.look_again == 0:  # what is next does not wait for what people are told
                posting = asyncio.create_task(self._post(manifest, decision.events))
                self._posting.add(posting)
                posting.add_done_callback(self._posting.discard)
            else:
                await self._post(manifest, decision.events)
        if decision.status.phase in FINISHED:
            self._agents.forget(key)
        else:
            self._agents.follow(key, seen.speakers)
        if refused:
            raise refused
        return decision.look_again

    async def _post(self, run: Manifest, events: tuple[Event, ...]) -> None:
        with suppress(NotLeaderError):
            for event in events:
                await self._cluster.post_event(run, event.type, event.reason, event.message)

    def _look_at_clock(self) -> datetime:
        """The time. Where the clock was set meanwhile, nothing that it said before tells how long anyone has been silent."""
        now, at = self._now(), asyncio.get_running_loop().time()
        if abs((now - self._seen).total_seconds() - (at - self._seen_at)) > CLOCK_STEP_SECONDS:
            log.warning("the clock was set", extra={"from": str(self._seen), "to": str(now)})
            self._since = now
        self._seen, self._seen_at = now, at
        return now

    def _observe(self, key: Key, manifest: Manifest) -> Observation:
        now = self._look_at_clock()
        read = self._read.get(key)
        if read is None or read.manifest is not manifest:
            run, errors = self._read_spec(key, manifest)
            status = Status.read_stored(manifest.get("status") or {})
            read = self._read[key] = _Read(manifest, run, errors, status)
        run, errors, status = read.run, read.errors, read.status
        uid = manifest["metadata"]["uid"]
        went = self._store.went(key)
        return Observation(
            now=now,
            watching_since=self._since,
            run=run,
            errors=errors,
            status=status,
            pods=tuple(self._pod(pod, status.attempt) for pod in self._store.pods(key) if _owned_by(pod, uid)),
            went=read_pod(went) if went and _owned_by(went, uid) else None,
            settings=self._settings,
            refusal=self._store.refusal(key),
            progress_seconds=progress_seconds(self._agents.followed),
            restarts_in_place=self._store.restarts_in_place,
            said_by_others=self._store.excluded_by_others(key),
            others_wait=self._store.others_wait(key),
            storage_uri=self._cluster.storage_uri(run) if not errors else "",
        )

    def _read_spec(self, key: Key, manifest: Manifest) -> Spec:
        """The run without its status; read once for each generation, for its rules take half of a pass to check."""
        metadata = manifest["metadata"]
        which = metadata["uid"], metadata.get("generation", 0)
        if key not in self._specs or self._specs[key][0] != which:
            self._specs[key] = which, read_run(manifest)
        run, errors = self._specs[key][1]
        return (run if errors else run.model_copy(update={"metadata": Metadata.read_stored(metadata)})), errors

    def _pod(self, manifest: Manifest, attempt: int) -> Pod:
        uid, store = manifest["metadata"]["uid"], self._store
        view = store.agent(uid)
        return read_pod(
            manifest,
            store.assigned(uid),
            view.state if view else None,
            view.changed if view else None,
            view.answered if view else None,
            store.silent_since(uid),
            store.unanswered(uid, attempt),
            store.looked_at(uid),
        )

    async def _perform(self, seen: Observation, decision: Decision) -> None:
        """Perform all actions, kind by kind; the first error of a kind is raised after all of it have ended."""
        for kinds in ORDER:
            same = [action for action in decision.actions if isinstance(action, kinds)]
            results = await asyncio.gather(*(self._act(seen, action) for action in same), return_exceptions=True)
            for result in results:
                if isinstance(result, BaseException):
                    raise result

    async def _act(self, seen: Observation, action: Action) -> None:
        uid = seen.run.metadata.uid
        async with self._limit:
            match action:
                case CreateSecret(manifest):
                    content = self._agents.access.secret(uid, tls=speaks_tls(manifest))
                    await self._cluster.create({**manifest, "stringData": content})
                case CreatePod(manifest):
                    self._store.put(await self._cluster.create(manifest))
                case CreateWay(manifest):
                    await self._cluster.create(manifest)
                case DeletePod(pod, grace_seconds):
                    if not await self._cluster.delete_pod(pod, grace_seconds):
                        self._store.remove(pod)
                case LookAt(pod):
                    await self._look_at(pod)
                case Assign(pod, assignment):
                    try:
                        await self._agents.assign(pod, uid, assignment)
                    except AgentError:
                        self._store.put_unanswered(pod["metadata"]["uid"], assignment.attempt)
                        with suppress(TimeoutError):
                            async with asyncio.timeout(CALL_SECONDS):  # a slow API server must not keep agents waiting
                                await self._look_at(pod)
                        raise
                case DeleteRun():
                    await self._cluster.delete_run(seen.run)

    async def _look_at(self, pod: Manifest) -> None:
        """See whether a pod is still there: a watch that was broken has not told."""
        if found := await self._cluster.find_pod(pod):
            self._store.put_looked_at(found)
        else:
            self._store.remove(pod)


def _owned_by(pod: Manifest, uid: str) -> bool:
    return any(owner["uid"] == uid for owner in pod["metadata"].get("ownerReferences", ()))
