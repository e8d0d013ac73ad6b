"""What the operator knows: runs, their pods, and what agents said. Fed by watches, by the answers to our own writes, and by
a repairing re-list; read by the reconcile loop.

An object is replaced only by a newer one (resourceVersions of one resource compare as numbers, Kubernetes 1.35), so a late
watch event never undoes what the answer to a write has told.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime

from trainyard_api.names import ANNOTATION_EXCLUDED, KIND, LABEL_RANK, LABEL_RUN
from trainyard_api.protocol import AgentState
from trainyard_api.status import ExcludedNode, Reason, Status

from ..cluster.protocol import Manifest
from ..decide.container import slim_spec, statuses
from ..decide.suspects import unforgiven

Key = tuple[str, str]
"""(namespace, name) of a run."""


@dataclass(frozen=True)
class AgentView:
    """What a pod's agent last said, and when (operator's clock) that last differed from before."""

    state: AgentState
    changed: datetime
    answered: datetime
    """When it last answered at all."""


@dataclass
class _Entry:
    manifest: Manifest
    first_seen: datetime


class Store:
    """Runs and pods by key. `wake` is called with the key of every run about which something has changed."""

    def __init__(self, wake: Callable[[Key], None], now: Callable[[], datetime]) -> None:
        self._wake = wake
        self._now = now
        self._runs: dict[str, _Entry] = {}
        self._pods: dict[Key, dict[str, _Entry]] = {}
        self._agents: dict[str, AgentView] = {}
        self._silent: dict[str, datetime] = {}
        self._assigned: dict[str, tuple[int, datetime]] = {}
        self._unanswered: dict[str, tuple[int, datetime, datetime]] = {}
        self._looked_at: dict[str, datetime] = {}
        self._refusals: dict[Key, str] = {}
        self._went: dict[Key, Manifest] = {}
        self._excluded: dict[Key, tuple[ExcludedNode, ...]] = {}
        self.restarts_in_place = False
        """Whether the nodes start a container that was killed again in its pod."""
        self._without_room: set[Key] = set()

    def put(self, manifest: Manifest) -> None:
        """Take in a run or pod, unless what is known is newer."""
        key, entries, name = self._place(manifest)
        known = entries.get(name)
        if known and _same(known.manifest, manifest) and _version(known.manifest) >= _version(manifest):
            return
        before = known if known and _same(known.manifest, manifest) else None
        first_seen = before.first_seen if before else self._now()
        kept = manifest if manifest["kind"] == KIND else _slim_pod(manifest, before.manifest if before else None)
        entries[name] = _Entry(kept, first_seen)
        if manifest["kind"] == KIND:
            self._note_excluded(key, manifest)
            self._note_waiting(key, manifest)
        self._wake(key)

    def remove(self, manifest: Manifest) -> None:
        """Forget a run or pod that is deleted; an object of the same name with another UID stays."""
        key, entries, name = self._place(manifest)
        known = entries.get(name)
        if known and _same(known.manifest, manifest):
            del entries[name]
            uid = known.manifest["metadata"]["uid"]
            self._agents.pop(uid, None)
            self._silent.pop(uid, None)
            self._assigned.pop(uid, None)
            self._unanswered.pop(uid, None)
            self._looked_at.pop(uid, None)
            if manifest["kind"] == KIND:
                self._refusals.pop(key, None)
                self._went.pop(key, None)
                self._excluded.pop(key, None)
                self._without_room.discard(key)
            elif manifest["metadata"]["labels"][LABEL_RANK] == "0" and self.run(key):
                self._went[key] = _slim_pod(manifest, known.manifest)
            self._wake(key)
        if not self._pods.get(key):
            self._pods.pop(key, None)

    def repair(self, listed: Iterable[Manifest], kind: str, began: datetime) -> int:
        """Take in a whole LIST of one kind that began at `began`; forget what it lacks. Returns how many were forgotten.

        Objects first seen after the LIST began are kept: it may be older than they are.
        """
        present = set()
        for manifest in listed:
            present.add(manifest["metadata"]["uid"])
            self.put(manifest)
        pods = [entry for entries in self._pods.values() for entry in entries.values()]
        known = list(self._runs.values()) if kind == KIND else pods
        ghosts = [e.manifest for e in known if e.first_seen < began and e.manifest["metadata"]["uid"] not in present]
        for ghost in ghosts:
            self.remove(ghost)
        return len(ghosts)

    def run(self, key: Key) -> Manifest | None:
        """The run, as last seen."""
        entry = self._runs.get("/".join(key))
        return entry.manifest if entry else None

    def runs(self) -> list[Manifest]:
        """All runs."""
        return [entry.manifest for entry in self._runs.values()]

    def pods(self, key: Key) -> list[Manifest]:
        """The pods that carry the run's label, of any owner."""
        return [entry.manifest for entry in self._pods.get(key, {}).values()]

    def wake_all(self) -> None:
        """Have every run looked at."""
        for run in self.runs():
            self._wake((run["metadata"]["namespace"], run["metadata"]["name"]))

    def went(self, key: Key) -> Manifest | None:
        """The pod of worker 0 that went last, as it was then: its end and its going are often one event."""
        return self._went.get(key)

    def put_agent(self, key: Key, pod_uid: str, state: AgentState) -> None:
        """Take in what the agent of a pod says."""
        known, now = self._agents.get(pod_uid), self._now()
        news = known is None or known.state != state
        self._agents[pod_uid] = AgentView(state, now if known is None or news else known.changed, now)
        if self._silent.pop(pod_uid, None) or known is None or (news and _matters(known.state, state)):
            self._wake(key)

    def put_silence(self, key: Key, pod_uid: str, since: datetime) -> None:
        """Note that the agent of a pod has not answered since then."""
        if pod_uid not in self._silent:
            self._silent[pod_uid] = since
            self._wake(key)

    def end_silence(self, pod_uid: str) -> None:
        """Nobody asks the agent of a pod any more."""
        self._silent.pop(pod_uid, None)

    def silent_since(self, pod_uid: str) -> datetime | None:
        """When the agent of a pod, which does not answer any more, last did; None of one that is not known to be silent."""
        return self._silent.get(pod_uid)

    def agent(self, pod_uid: str) -> AgentView | None:
        """What the agent of a pod last said."""
        return self._agents.get(pod_uid)

    def put_assigned(self, pod_uid: str, attempt: int) -> None:
        """Note that a pod's agent has its assignment. A new process doesn't know, and says it again."""
        self._assigned[pod_uid] = attempt, self._now()

    def assigned(self, pod_uid: str) -> tuple[int, datetime] | None:
        """The attempt that a pod's agent was last assigned to by this process, and when."""
        return self._assigned.get(pod_uid)

    def put_unanswered(self, pod_uid: str, attempt: int) -> None:
        """Note that a pod's agent did not take its assignment."""
        now = self._now()
        asked = self.unanswered(pod_uid, attempt)
        self._unanswered[pod_uid] = attempt, asked[0] if asked else now, now

    def unanswered(self, pod_uid: str, attempt: int) -> tuple[datetime, datetime] | None:
        """When a pod's agent did not take its assignment of this attempt for the first and for the last time."""
        match self._unanswered.get(pod_uid):
            case (known, first, last) if known == attempt:
                return first, last
        return None

    def put_looked_at(self, found: Manifest) -> None:
        """Take in a pod that was asked for by name."""
        self._looked_at[found["metadata"]["uid"]] = self._now()
        self.put(found)

    def looked_at(self, pod_uid: str) -> datetime | None:
        """When a pod was last asked for by name."""
        return self._looked_at.get(pod_uid)

    def put_refusal(self, key: Key, message: str) -> None:
        """Note why the cluster would not have a pod of the run in the last pass; empty if it would."""
        self._refusals[key] = message

    def refusal(self, key: Key) -> str:
        """Why the cluster would not have a pod of the run in the last pass."""
        return self._refusals.get(key, "")

    def excluded_by_others(self, key: Key) -> tuple[tuple[str, ExcludedNode], ...]:
        """The nodes that runs but this one exclude and that are not forgiven, each with the run's namespace."""
        others = ((other[0], entries) for other, entries in self._excluded.items() if other != key)
        return tuple((namespace, entry) for namespace, entries in others for entry in entries)

    def others_wait(self, key: Key) -> bool:
        """Whether runs but this one find no room for their pods."""
        return bool(self._without_room - {key})

    def _note_waiting(self, key: Key, run: Manifest) -> None:
        why = run.get("status", {}).get("waiting") or {}
        if why.get("reason") == Reason.WAITING_FOR_CAPACITY:
            self._without_room.add(key)
        else:
            self._without_room.discard(key)

    def _note_excluded(self, key: Key, run: Manifest) -> None:
        """Few runs exclude nodes, and every pass of any run asks for all that they do."""
        self._excluded.pop(key, None)
        if entries := run.get("status", {}).get("excludedNodes"):
            status = Status.read_stored({"excludedNodes": entries})
            self._excluded[key] = unforgiven(status, run["metadata"].get("annotations") or {})

    def _place(self, manifest: Manifest) -> tuple[Key, dict[str, _Entry], str]:
        """The key of the run that an object belongs to, and where the object is kept."""
        metadata = manifest["metadata"]
        if manifest["kind"] == KIND:
            key = metadata["namespace"], metadata["name"]
            return key, self._runs, "/".join(key)
        key = metadata["namespace"], metadata["labels"][LABEL_RUN]
        return key, self._pods.setdefault(key, {}), metadata["name"]


def _matters(before: AgentState, after: AgentState) -> bool:
    """Whether a decision waits for the news. How far ranks have come does not: a run that trains is looked at every few seconds
    anyway, and of a thousand runs the steps alone would take all of the processor.
    """
    if (before.progress is None) != (after.progress is None):
        return True
    left_out: dict[str, object] = {"version": 0, "progress": None, "checkpoint": None, "paces": []}
    return before.model_copy(update=left_out) != after.model_copy(update=left_out)


def _same(one: Manifest, other: Manifest) -> bool:
    return bool(one["metadata"]["uid"] == other["metadata"]["uid"])


def _version(manifest: Manifest) -> int:
    return int(manifest["metadata"].get("resourceVersion") or 0)


def _slim_pod(pod: Manifest, before: Manifest | None) -> Manifest:
    """The parts of a pod that decisions need: a tenth of its size. `before` is how it was known."""
    metadata, status = pod["metadata"], pod.get("status", {})
    kept = ("name", "namespace", "uid", "labels", "ownerReferences", "resourceVersion", "deletionTimestamp")
    kept_status = ("phase", "podIP", "conditions", "reason", "message")
    annotations = {name: text for name, text in metadata.get("annotations", {}).items() if name == ANNOTATION_EXCLUDED}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {name: metadata[name] for name in kept if name in metadata} | {"annotations": annotations},
        "spec": {"nodeName": pod.get("spec", {}).get("nodeName"), "containers": slim_spec(pod)},
        "status": {name: status[name] for name in kept_status if name in status}
        | {"containerStatuses": statuses(pod, before)},
    }
