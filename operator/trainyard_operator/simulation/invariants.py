"""What must hold at every step, whatever goes wrong: looked at whenever a status, an assignment or a checkpoint changes."""

from collections import defaultdict, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise

from trainyard_api.names import LABEL_ATTEMPT, LABEL_RANK, LABEL_RUN, LABEL_STAGE, PLURAL
from trainyard_api.protocol import Assignment
from trainyard_api.status import FINISHED, Phase, Reason, Recovery, Status

from ..cluster.protocol import Manifest
from ..cluster.simulated import OVER, ApiServer
from ..decide.silence import UNWITNESSED_SECONDS
from ..runtime.listing import RELIST_SECONDS
from .faults import Kind
from .storage import Checkpoints

CAUSES: dict[Kind, tuple[Reason, ...]] = {
    "rank crashes": (Reason.PROCESS_FAILED,),
    "rank is killed": (Reason.PROCESS_FAILED,),
    "ranks hang": (Reason.HUNG,),
    "agent is killed": (Reason.PROCESS_FAILED,),
    "pod runs out of memory": (Reason.OUT_OF_MEMORY, Reason.PROCESS_FAILED),
    "pod is deleted": (Reason.POD_DELETED,),
    "pod is evicted": (Reason.EVICTED, Reason.POD_DELETED),
    "pod is preempted": (Reason.PREEMPTED, Reason.POD_DELETED),
    "node is cut off": (Reason.NODE_LOST, Reason.POD_DELETED),
    "node loses power": (Reason.NODE_LOST, Reason.POD_DELETED, Reason.PROCESS_FAILED),
}
"""What the operator may call what was done to an attempt. A disruption whose pod is gone before it was seen is a deletion; a
node that is back before it was missed shows dead containers; why a container ended that is started again is shown for a moment
only.
"""
OUT_OF_MEMORY_TIMES = 3
"""So many in one stage end a run by themselves."""
LIST_PATIENCE_SECONDS = 60.0
"""For a list that repairs what a watch has missed to be made, and acted on."""
WRITES_A_MINUTE, WRITES_AN_ATTEMPT = 14, 10
"""Status writes of one run: progress every 5 s, and the changes of each attempt that is made within the minute."""


@dataclass
class RunRecord:
    """All that was seen of one run."""

    name: str
    max_failures: int
    statuses: list[Status] = field(default_factory=list)
    last_minute: deque[tuple[float, int]] = field(default_factory=deque)
    """When statuses were written, and of which attempt."""
    recoveries: list[Recovery] = field(default_factory=list)
    injuries: dict[int, list[Kind]] = field(default_factory=lambda: defaultdict(list))
    """What was done to each attempt."""
    failed: set[int] = field(default_factory=set)
    """Attempts of which ranks were made to fail."""
    assignments: dict[tuple[int, int], Assignment] = field(default_factory=dict)
    """(attempt, worker) → the place that an agent took."""
    holders: dict[tuple[int, int], str] = field(default_factory=dict)
    """(attempt, worker) → the address of the agent that took it."""
    deleted: bool = False

    @property
    def status(self) -> Status:
        """The last one written."""
        return self.statuses[-1] if self.statuses else Status()


class Invariants:
    """Keeps the record of all runs; `broken` collects what should never be."""

    def __init__(
        self, server: ApiServer, time: Callable[[], float], was_lost: Callable[[str], bool], *, exact: bool, told: bool
    ) -> None:
        """`exact` of a world with a clock that nobody sets. One that was set tells a pod that was replaced from one that was
        not the wrong way round, which costs a recovery that is not counted, and nothing else. `told` of a world in which
        watches lose no events.

        `was_lost`: whether a node is away, or has been a moment ago. It fails each attempt that still counts on it.
        """
        self.records: dict[str, RunRecord] = {}
        self.broken: list[str] = []
        self._server = server
        self._time = time
        self._was_lost = was_lost
        self._exact, self._told = exact, told
        self._excused = [Reason.WAITING_FOR_CAPACITY]
        self._excused += [] if exact else [Reason.POD_DELETED]
        server.watch(PLURAL, self._run_changed)
        self._pods: dict[tuple[str, str, str], dict[str, Manifest]] = defaultdict(dict)
        """Those of each worker of a stage, by UID."""
        self._twins: dict[tuple[str, str, str], float] = {}
        """Workers that have two pods, and since when: who was not told of one makes another, and finds it by its next list."""
        server.watch("pods", self._pod_changed)

    def fail(self, what: str) -> None:
        """Something is as it should never be."""
        self.broken.append(f"{self._time():.3f}: {what}")

    # ---- statuses

    def _run_changed(self, event: str, run: Manifest) -> None:
        uid, name = run["metadata"]["uid"], run["metadata"]["name"]
        if event == "ADDED":
            self.records[uid] = RunRecord(name, run["spec"]["recovery"]["maxFailures"])
        record = self.records[uid]
        if event == "DELETED":
            record.deleted = True
            return
        status = Status.read_stored(run.get("status") or {})
        before = record.status
        if status == before:
            return
        record.statuses.append(status)
        self._never_goes_back(record, before, status)
        self._recovered_for_a_reason(record, before, status)
        self._budgets_are_exact(record, status)
        if before.phase in FINISHED:
            self.fail(f"{name}: a status was written after the end")
        record.last_minute.append((self._time(), status.attempt or 0))
        while record.last_minute[0][0] < self._time() - 60:
            record.last_minute.popleft()
        attempts = len({attempt for _, attempt in record.last_minute})
        if self._exact and len(record.last_minute) > WRITES_A_MINUTE + attempts * WRITES_AN_ATTEMPT:
            self.fail(f"{name}: {len(record.last_minute)} status writes within a minute, of {attempts} attempts")

    def _never_goes_back(self, record: RunRecord, before: Status, after: Status) -> None:
        if after.attempt not in (before.attempt, before.attempt + 1):
            self.fail(f"{record.name}: attempt {before.attempt} became {after.attempt}")
        steps = [status.checkpoint.step if status.checkpoint else 0 for status in (before, after)]
        if self._exact and before.stage == after.stage and steps[0] > steps[1]:
            self.fail(f"{record.name}: checkpoint {steps[0]} became {steps[1]}")
        done = [stage.name for stage in after.stages if stage.phase == "Succeeded"]
        if [stage.name for stage in before.stages if stage.phase == "Succeeded" and stage.name not in done]:
            self.fail(f"{record.name}: a stage that was done is not done any more")

    def _recovered_for_a_reason(self, record: RunRecord, before: Status, after: Status) -> None:
        known = {entry.attempt for entry in before.recoveries}
        for entry in after.recoveries:
            if entry.attempt in known:
                continue
            record.recoveries.append(entry)
            if any(entry.attempt == earlier.attempt for earlier in record.recoveries[:-1]):
                self.fail(f"{record.name}: attempt {entry.attempt} was recovered from twice")
            done = record.injuries.get(entry.attempt, [])
            excused = entry.cause in self._excused
            excused |= entry.cause == Reason.NODE_LOST and self._was_lost(entry.node)
            # Of a pod that was never ready, and has no peers, Kubernetes says nothing either when its node is lost.
            waited = (entry.detect_seconds or 0) >= UNWITNESSED_SECONDS
            excused |= entry.cause == Reason.AGENT_SILENT and waited and any(kind.startswith("node") for kind in done)
            if not excused and not any(entry.cause in CAUSES[kind] for kind in done):
                what = ", ".join(done) or "nothing"
                self.fail(
                    f"{record.name}: attempt {entry.attempt} ended by {entry.cause} ({entry.message}), done to it: {what}"
                )

    def _budgets_are_exact(self, record: RunRecord, status: Status) -> None:
        restarts, failed = status.restarts, _failed_at_last(status)
        counted = sum(entry.counted for entry in record.recoveries) + failed
        if (restarts.total, restarts.failures + restarts.hangs) != (len(record.recoveries) + failed, counted):
            self.fail(f"{record.name}: {restarts} after {len(record.recoveries)} recoveries, {counted} of them counted")
        if status.reason == Reason.TOO_MANY_FAILURES and counted != record.max_failures + 1:
            self.fail(f"{record.name}: failed after {counted} failures of {record.max_failures}")

    # ---- groups

    def _pod_changed(self, event: str, pod: Manifest) -> None:
        """A worker has one pod at a time: the one before has ended, or was asked to. The request for an earlier one may
        have been on its way for long.
        """
        place, uid = _place(pod), pod["metadata"]["uid"]
        pods = self._pods[place]
        if event == "DELETED":
            pods.pop(uid, None)
        else:
            pods[uid] = pod
        twins = [
            each["metadata"]["name"]
            for each in pods.values()
            if each["status"]["phase"] not in OVER and not each["metadata"].get("deletionTimestamp")
        ]
        if len(twins) < 2:
            since = self._twins.pop(place, self._time())
            if self._time() - since > RELIST_SECONDS + LIST_PATIENCE_SECONDS:
                self.fail(f"worker {place} had two pods for {self._time() - since:.0f} s")
        elif event == "ADDED" and _attempt(pod) == max(map(_attempt, pods.values())):
            self._twins.setdefault(place, self._time())
            if self._told:
                self.fail(f"one worker has pods {twins}")

    def assigned(self, assignment: Assignment, address: str) -> None:
        """An agent took a place: an attempt is one group, and each of its places one agent's."""
        record = self.records[assignment.job.run_uid]
        place = assignment.attempt, assignment.worker
        holder = record.holders.setdefault(place, address)
        if holder != address:
            self.fail(f"{record.name}: {place} (attempt, worker) was given to {holder} and to {address}")
        if assignment.addresses[assignment.worker] != address:
            self.fail(f"{record.name}: {address} was told that it is {assignment.addresses[assignment.worker]}")
        for (attempt, _), other in record.assignments.items():
            if attempt == assignment.attempt and other.addresses != assignment.addresses:
                self.fail(f"{record.name}: attempt {attempt} has two groups: {other.addresses}, {assignment.addresses}")
        if assignment.attempt > record.status.attempt:
            self.fail(f"{record.name}: attempt {assignment.attempt} began before it was on record")
        record.assignments[place] = assignment

    def injured(self, run_uid: str, attempt: int, kind: Kind) -> None:
        """Something was done to an attempt."""
        self.records[run_uid].injuries[attempt].append(kind)

    # ---- checkpoints

    def checkpoints_changed(self, checkpoints: Checkpoints) -> None:
        """One history: attempts and steps grow together, and nothing that was done again counts."""
        for earlier, later in pairwise(checkpoints.committed):
            if earlier.attempt > later.attempt:
                self.fail(f"two attempts write at once: {earlier} and {later} both count")

    # ---- at the end

    def check_end(self, operator_writes: int) -> None:
        """When all has been calm for long: ended, explained, nothing left over, nothing written any more."""
        for record in self.records.values():
            if record.deleted:
                continue
            if record.status.phase not in FINISHED:
                self.fail(
                    f"{record.name} has not ended: {record.status.phase} {record.status.reason}: {record.status.message}"
                )
            self._ended_as_it_should(record)
        alive = [pod["metadata"]["name"] for pod in self._server.all("pods") if pod["status"]["phase"] not in OVER]
        if alive:
            self.fail(f"pods outlive their runs: {alive}")
        owners = {uid for uid, record in self.records.items() if not record.deleted}
        for plural in ("pods", "secrets"):
            for each in self._server.all(plural):
                if not {owner["uid"] for owner in each["metadata"]["ownerReferences"]} & owners:
                    self.fail(f"{plural} of {each['metadata']['labels'][LABEL_RUN]}, which is gone, are left over")
        if operator_writes:
            self.fail(f"{operator_writes} writes though there was nothing to do")

    def _ended_as_it_should(self, record: RunRecord) -> None:
        """No failure was overlooked, and without too many of them a run succeeds."""
        too_many = _failed_at_last(record.status)
        recovered = {entry.attempt for entry in record.recoveries} | ({record.status.attempt} if too_many else set())
        if overlooked := record.failed - recovered:
            self.fail(f"{record.name}: ranks of attempts {overlooked} failed, and nobody took note")
        if record.status.phase == Phase.FAILED and not too_many:
            self.fail(f"{record.name} failed: {record.status.reason} {record.status.message}")
        short = [kind for done in record.injuries.values() for kind in done].count("pod runs out of memory")
        if record.status.reason == Reason.OUT_OF_MEMORY and short < OUT_OF_MEMORY_TIMES:
            self.fail(f"{record.name}: {record.status.message}, after {short} times")


def _failed_at_last(status: Status) -> bool:
    """Whether one more failure of its last attempt has ended the run."""
    return status.phase == Phase.FAILED and status.reason in (Reason.TOO_MANY_FAILURES, Reason.OUT_OF_MEMORY)


def _place(pod: Manifest) -> tuple[str, str, str]:
    labels = pod["metadata"]["labels"]
    return pod["metadata"]["ownerReferences"][0]["uid"], labels[LABEL_STAGE], labels[LABEL_RANK]


def _attempt(pod: Manifest) -> int:
    return int(pod["metadata"]["labels"][LABEL_ATTEMPT])
