"""What the operator says of a run. Every reason is from a closed list, so that users and alerts can rely on it."""

from enum import StrEnum
from typing import ClassVar, Literal

from pydantic import Field

from .model import Reported, transition


class Phase(StrEnum):
    """Where a run is, in one word."""

    PENDING = "Pending"
    """Seen, nothing made yet."""
    QUEUED = "Queued"
    """Pods exist and wait for room in the cluster."""
    STARTING = "Starting"
    """Pods are placed; images, containers, ranks come up."""
    RUNNING = "Running"
    RECOVERING = "Recovering"
    """Something died; the group is being made anew."""
    SUSPENDED = "Suspended"
    """Nothing of it runs, as spec.suspend asks."""
    SUCCEEDED = "Succeeded"
    FAILED = "Failed"


FINISHED = (Phase.SUCCEEDED, Phase.FAILED)


class Reason(StrEnum):
    """Why a run is in its phase."""

    # on the way
    STAGE_PENDING = "StagePending"
    WAITING_FOR_CAPACITY = "WaitingForCapacity"
    POD_REFUSED = "PodRefused"
    IMAGE_PULL_FAILED = "ImagePullFailed"
    CONTAINER_NOT_STARTED = "ContainerNotStarted"
    WAITING_FOR_AGENTS = "WaitingForAgents"
    STARTING_RANKS = "StartingRanks"
    TRAINING = "Training"
    STAGE_RUNNING = "StageRunning"
    COLLECTING_COMPARISONS = "CollectingComparisons"
    SUSPENDING = "Suspending"
    SUSPENDED = "Suspended"
    # recovering, named for the cause
    PROCESS_FAILED = "ProcessFailed"
    OUT_OF_MEMORY = "OutOfMemory"
    PREEMPTED = "Preempted"
    EVICTED = "Evicted"
    POD_DELETED = "PodDeleted"
    NODE_LOST = "NodeLost"
    AGENT_SILENT = "AgentSilent"
    HUNG = "Hung"
    PREFLIGHT_FAILED = "PreflightFailed"
    START_TIMEOUT = "StartTimeout"
    ROLLED_BACK = "RolledBack"
    # the end
    FAILED_BY_RULE = "FailedByRule"
    SAME_STEP_FAILS = "SameStepFails"
    COMPLETED = "Completed"
    INVALID_SPEC = "InvalidSpec"
    PERMANENT_ERROR = "PermanentError"
    TOO_MANY_FAILURES = "TooManyFailures"
    DEADLINE_EXCEEDED = "DeadlineExceeded"


Cause = Literal[
    Reason.PROCESS_FAILED,
    Reason.OUT_OF_MEMORY,
    Reason.PREEMPTED,
    Reason.EVICTED,
    Reason.POD_DELETED,
    Reason.NODE_LOST,
    Reason.AGENT_SILENT,
    Reason.HUNG,
    Reason.START_TIMEOUT,
    Reason.PREFLIGHT_FAILED,
    Reason.PERMANENT_ERROR,
]
"""What may end an attempt, for rules to name."""


class Progress(Reported):
    """How far the current stage is. What a stage has no use for is left out."""

    step: int = 0
    steps: int = 0
    tokens: int | None = None
    """Tokens trained on so far, over all ranks."""
    loss: float | None = None
    """Mean loss per token of the last global batch, in nats."""
    position: int | None = None
    """The first of the step's sequences in the order of data; there are globalBatch of them."""
    held_out_loss: float | None = None
    learning_rate: float | None = None
    grad_norm: float | None = None
    tokens_per_second: float | None = None
    step_seconds: float | None = None
    mfu: float | None = None
    """Model FLOPs utilisation of the last step, by the peak of the ranks' devices where that is known: docs/stages.md."""
    memory_bytes: int | None = None
    """That rank 0 has had at most: allocated on its GPU, or else resident."""
    eta_seconds: float | None = None
    skipped_batches: int | None = None
    """Global batches that were left out because of their numbers, since the stage began; None for none."""
    last_fault: str | None = None
    """The last of those of this attempt: step, what was wrong, what was done."""
    heartbeat_time: str | None = None
    message: str | None = None
    """What a stage without steps is doing; of one that trains, what is wrong with saving its checkpoints."""


class CheckpointStatus(Reported):
    """The newest checkpoint that is committed."""

    step: int
    uri: str
    time: str
    stall_seconds: float | None = None
    """How long training stood still for it."""
    durable_seconds: float | None = None
    """From the step's end until it was committed; training went on meanwhile."""
    interval_seconds: float | None = None
    """Until the next one, as `everySeconds: auto` has chosen."""


class Quarantined(Reported):
    """A checkpoint that was found bad and set aside, so that the one before it is taken."""

    step: int
    reason: str
    """What is wrong with it."""
    time: str


class Straggler(Reported):
    """A rank that is persistently slower than the others, which wait for it."""

    rank: int
    pod: str
    node: str
    seconds: float
    """That it takes to fetch data and for the forward passes of a step, when this was found."""
    usual_seconds: float
    """The median of all ranks."""


class WorkersStatus(Reported):
    """Pods of the current group."""

    desired: int = 0
    ready: int = 0


class RestartedPod(Reported):
    """A pod whose container has been started again in place."""

    pod: str
    starts: int
    """How often, before the attempt began: once more ends the attempt."""


class Waiting(Reported):
    """What a run waits for, in the words of whoever makes it wait."""

    reason: Reason
    message: str
    object: str
    since: str


class Restarts(Reported):
    """Recoveries by kind. Only failures and hangs use up the budget."""

    total: int = 0
    failures: int = 0
    disruptions: int = 0
    roll_backs: int = 0
    """As `numerics` asks for them."""
    hangs: int = 0
    ignored: int = 0
    """Failures and hangs that a rule says don't count."""


class Failure(Reported):
    """A failure that counts, with what tells whether the next one is the same."""

    time: str
    cause: Reason
    stage: str
    node: str = ""
    crashed: bool = False
    """The process ended by itself, neither killed nor for lack of another one: it may well do so again."""
    step: int | None = None
    """The last one done before, by this attempt or by the checkpoint that it began from; None if it never got so far."""


Scope = Literal["Run", "Suspected", "Namespace"]
"""Whose pods keep off a node: those of the run that says so; of all runs in its namespace once a second one says the same;
or of all at once. What two namespaces say of a node, other than for one run alone, holds for every run."""


class ExcludedNode(Reported):
    """A node that failures are put down to, so that pods are not made there for a while."""

    node: str
    cause: Reason
    message: str = ""
    time: str
    until: str
    scope: Scope = "Run"


Tier = Literal["ranks", "container", "pod", "group"]
"""How much of a group a recovery makes anew: processes alone, a container in its pod, the pods that are gone, or all of it."""
RestoredFrom = Literal["memory", "storage"]
"""What the ranks took their state from: snapshots that outlived them, or a checkpoint."""


class Recovery(Reported):
    """One recovery, with its clocks."""

    time: str
    cause: Reason
    message: str = ""
    stage: str
    attempt: int
    """The attempt that ended."""
    pod: str = ""
    node: str = ""
    rank: int | None = None
    exit_code: int | None = None
    last_lines: tuple[str, ...] = ()
    """What the process wrote last."""
    stacks: str | None = None
    """After a hang: the folder that holds the stacks of all threads, a file a rank."""
    tier: Tier = "group"
    """What is made anew; more than was planned if what was to stay goes as well."""
    counted: bool = True
    """Whether it uses up the budget."""
    detect_seconds: float | None = None
    """From the end of the process to the operator's knowing."""
    reform_seconds: float | None = None
    """From knowing to all ranks of the next attempt started."""
    step: int | None = None
    """The last step reported before."""
    resumed_step: int | None = None
    restored_from: RestoredFrom | None = None
    """None when training began anew."""
    recomputed_steps: int | None = None
    """Steps done before that had to be done again."""


class PlanStatus(Reported):
    """What a stage that trains was worked out to take before it began: `trainyard plan` shows it whole."""

    parameters: int
    flops_per_token: int
    """To train on one token, forward and backward."""
    rank_memory_bytes: int
    """Of a rank on its device, at most."""
    worker_memory_bytes: int
    """Of a worker's own memory, at most."""
    checkpoint_bytes: int
    """Of one checkpoint, by all ranks together."""


class StageStatus(Reported):
    """One stage of the run."""

    name: str
    phase: Literal["Pending", "Running", "Succeeded", "Failed"] = "Pending"
    artifact: str | None = None
    """URI of the folder that holds artifact.json."""
    digest: str | None = None
    metrics: dict[str, float] | None = None
    plan: PlanStatus | None = None
    """What it was worked out to take, from when it begins."""
    start_time: str | None = None
    end_time: str | None = None


class Condition(Reported):
    """A Kubernetes condition. `Succeeded` is Unknown while the run lasts, then True or False."""

    type: str
    status: Literal["True", "False", "Unknown"]
    reason: str
    message: str = ""
    last_transition_time: str
    observed_generation: int = 0


class Status(Reported):
    """All that is known of a run."""

    phase: Phase = Phase.PENDING
    reason: Reason = Reason.STAGE_PENDING
    message: str = ""
    observed_generation: int = 0
    stage: str | None = None
    attempt: int = 0
    """Grows by one before anything of a new attempt is made: the fencing token."""
    placed_time: str | None = None
    """When all pods of this attempt had a node: startSeconds count from here."""
    ready_time: str | None = None
    """When all pods of this attempt ran. It is on record before any agent is given its place: no pod is exchanged after."""
    active_seconds: float = 0.0
    """How long groups have run, all in all, until `active_since`: what activeDeadlineSeconds bounds."""
    active_since: str | None = None
    """Since when the group that runs now counts as well; it does from ready_time until the attempt has ended."""
    start_time: str | None = None
    end_time: str | None = None
    progress: Progress | None = None
    checkpoint: CheckpointStatus | None = None
    quarantined: tuple[Quarantined, ...] = ()
    """Checkpoints that were found bad: the last five."""
    stragglers: tuple[Straggler, ...] = ()
    """Ranks that hold the others up, the slowest first."""
    workers: WorkersStatus = WorkersStatus()
    restarted: tuple[RestartedPod, ...] = ()
    """Pods of this attempt whose containers are not their first ones."""
    waiting: Waiting | None = None
    restarts: Restarts = Restarts()
    failures: tuple[Failure, ...] = ()
    """Those that count against the budget and are still within its window: at most maxFailures and one."""
    recoveries: tuple[Recovery, ...] = ()
    """The last ten."""
    excluded_nodes: tuple[ExcludedNode, ...] = ()
    """The last 32, each node once, also those whose time is over: they were suspects for what happened until then."""
    stages: tuple[StageStatus, ...] = ()
    conditions: tuple[Condition, ...] = Field(
        (), json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"]}
    )

    rules: ClassVar = (
        transition(
            "!has(oldSelf.attempt) || (has(self.attempt) && self.attempt >= oldSelf.attempt)",
            "status.attempt never goes back: a newer attempt has begun",
        ),
    )
