"""What operator, agents and ranks say to each other, over HTTP or HTTPS (tls.py).

operator → agent    PUT /assignment   `Assignment`; the same again changes nothing, an older attempt gets 409
operator ← agent    GET /state        `AgentState`; with ?since=VERSION&wait=SECONDS it answers when the state changes
agent → agent 0     PUT /peer         `PeerState`: the operator, which asks agent 0 alone, sees all of the group there; said on
                                      each change and every HEARTBEAT_SECONDS, so that each side notices when the other is gone
person → agent      GET /stacks       where its ranks are at this moment, as text
agent ← rank        GET, PUT /snapshots/RANK   a rank's shard, kept in the memory of this agent and of the next worker's
agent ← rank        JSON lines on the descriptor named by TRAINYARD_REPORT_FD, each a `Report`
agent → kubelet     the termination log, a `Termination`
agent → rank        environment: RANK, WORLD_SIZE, LOCAL_RANK, LOCAL_WORLD_SIZE, MASTER_ADDR, MASTER_PORT as torchrun
                    sets them, TRAINYARD_JOB (a `Job`), TRAINYARD_ATTEMPT; SIGTERM asks for a last checkpoint, SIGUSR1
                    for the stacks of all threads, on the descriptor named by TRAINYARD_STACKS_FD
"""

from typing import Any, Literal

from .model import Reported
from .stages import StageKind
from .status import CheckpointStatus, Progress, Quarantined, RestoredFrom

HEARTBEAT_SECONDS = 2.0
"""Between two signs of life of an agent."""
SILENT_SECONDS = 7.0
"""Without one, after which an agent is called silent: three are missing then. Kubernetes notices a lost node after 50 s."""


class Job(Reported):
    """All that a stage's processes need to know."""

    namespace: str
    run: str
    run_uid: str
    stage: str
    kind: StageKind
    settings: dict[str, Any]
    """The stage's own model, as JSON."""
    seed: int
    storage_uri: str
    output_uri: str
    """The stage's folder: artifact.json, checkpoints/, metrics.jsonl."""
    inputs: dict[str, str]
    """Field of the settings → URI of the artifact that it names."""
    memory_budget: int = 0
    """Bytes of a worker's memory that snapshots may take."""
    recoveries: int = 0
    """Of the run so far."""
    recovered_seconds: float = 0.0
    """From the run's start to the last of them: with `recoveries`, how often it fails."""
    hang_seconds: float = 600
    """How long a rank that works may be silent."""
    start_seconds: float = 1_800
    """How long it may be before its first step, and while it waits for storage; never less than `hang_seconds`."""


class Assignment(Reported):
    """A worker's place in the group of one attempt."""

    attempt: int
    workers: int
    worker: int
    """0 … workers - 1."""
    ranks_per_worker: int
    master_address: str
    master_port: int
    addresses: list[str] = []
    """Of all workers, in order: where each one's agent answers."""
    job: Job

    @property
    def world_size(self) -> int:
        """Ranks in the whole group."""
        return self.workers * self.ranks_per_worker


AgentPhase = Literal["idle", "running", "stopping", "succeeded", "failed"]


class RankState(Reported):
    """One process of an agent."""

    rank: int
    pid: int
    exit_code: int | None = None
    """None while it runs; minus the signal's number when a signal ended it."""


class Artifact(Reported):
    """What a stage made."""

    uri: str
    digest: str
    """SHA-256 of artifact.json."""
    metrics: dict[str, float] = {}


class Termination(Reported):
    """Why an agent ended; the JSON in the termination log, 4,096 bytes at most."""

    exit_code: int
    cause: str
    """Done, Stopped, PermanentError, PeerLost, StorageError, PreflightFailed, Crashed, Killed."""
    message: str = ""
    """What was wrong and what to do, for the user."""
    rank: int | None = None
    step: int | None = None
    time: str = ""
    last_lines: list[str] = []
    progress: Progress | None = None
    """The last of it, for the operator may have missed it."""
    checkpoint: CheckpointStatus | None = None
    resumed_step: int | None = None
    artifact: Artifact | None = None


class Place(Reported):
    """Where ranks are that have gone silent."""

    ranks: list[int]
    state: Literal["waits", "runs", "unresponsive"]
    """`waits`: for the others, in a collective. `unresponsive`: it can't even say where it is."""
    where: str
    """`all_reduce (engine/processes.py:67)`; of one that is unresponsive, what the kernel says of it."""


class Hang(Reported):
    """Some ranks of an agent have gone silent, and where all of its ranks are."""

    silent: list[int]
    """Those that have been silent for too long; none where another agent's are."""
    since: str
    """When the first of them was last heard of."""
    places: list[Place]
    stacks: str = ""
    """URI of the folder that holds the stacks of all threads, a file a rank; empty if storage did not take them."""


class Pace(Reported):
    """How long a rank takes for its own part of a step, without waiting for others."""

    rank: int
    seconds: float


class Straggler(Reported):
    """A rank that is persistently slower than the others."""

    rank: int
    seconds: float
    """For its own part of a step."""
    usual_seconds: float
    """The median of all ranks."""


class PeerState(Reported):
    """What agent 0 knows of another agent of its group."""

    worker: int
    attempt: int
    phase: AgentPhase
    termination: Termination | None = None
    hang: Hang | None = None
    paces: list[Pace] = []


class AgentState(Reported):
    """What an agent knows. An attempt that has failed doesn't end its agent: that waits for the next assignment."""

    version: int
    """Grows with each change; `since` refers to it."""
    phase: AgentPhase = "idle"
    attempt: int = 0
    master_port: int
    """A port that is free here, for this worker to be rank 0's on."""
    ranks: list[RankState] = []
    progress: Progress | None = None
    resumed_step: int | None = None
    """Step of the checkpoint that this attempt started from; 0 when it began anew, None before that is known."""
    restored_from: RestoredFrom | None = None
    """What served it; None when it began anew."""
    checkpoint: CheckpointStatus | None = None
    quarantined: list[Quarantined] = []
    """Checkpoints that this attempt found bad."""
    artifact: Artifact | None = None
    termination: Termination | None = None
    """How the ranks of this attempt ended."""
    hang: Hang | None = None
    """That ranks of this attempt have gone silent; they are left as they are until the next assignment."""
    paces: list[Pace] = []
    """Of the ranks here."""
    stragglers: list[Straggler] = []
    """Of all ranks; agent 0 alone knows them."""
    peers: list[PeerState] = []
    """The other agents of the group, of this attempt, as far as they have been heard of; agent 0 alone has them."""
    silent: dict[int, str] = {}
    """Workers that should be heard of here and have not been for SILENT_SECONDS → when they last were: of agent 0 all others,
    of the others agent 0.
    """


Activity = Literal["starting", "fetching", "restoring", "compiling", "working", "waiting", "saving"]
"""What a rank is at. Only `working` is held to hangSeconds: all else takes as long as storage, other ranks, compilers do."""


class Beat(Reported):
    """A rank's sign of life. Any report is one as well; this one says what it is at."""

    activity: Activity
    step: int = 0
    """The last one that is done."""
    pace: float | None = None
    """Seconds that it takes for its own part of a step: a median of 20 steps and ten seconds or more."""


class SnapshotState(Reported):
    """A rank's shard that is whole in the memory of its agent."""

    rank: int
    step: int
    attempt: int
    bytes: int
    """0 from the moment on that the slot is overwritten, until it is whole again."""
    slot: int
    """Which of the rank's two memories holds it."""


class Report(Reported):
    """A line from a rank to its agent. Only the fields that are given have changed."""

    progress: Progress | None = None
    resumed_step: int | None = None
    restored_from: RestoredFrom | None = None
    checkpoint: CheckpointStatus | None = None
    quarantined: Quarantined | None = None
    artifact: Artifact | None = None
    failure: Termination | None = None
    snapshot: SnapshotState | None = None
    beat: Beat | None = None
    metrics: dict[str, float] | None = None
    """For the agent's /metrics: name without prefix → value of a gauge."""
