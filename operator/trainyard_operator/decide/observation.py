"""All that is seen of one run at one moment: what every policy is given, frozen, with the time in it."""

from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from typing import Any

from pydantic import ValidationError
from trainyard_api.model import explain_errors
from trainyard_api.names import (
    ANNOTATION_EXCLUDED,
    LABEL_ATTEMPT,
    LABEL_RANK,
    LABEL_STAGE,
    artifact_uri,
)
from trainyard_api.protocol import AgentState, PeerState, Termination
from trainyard_api.run import Metadata, Stage, TrainingRun
from trainyard_api.status import CheckpointStatus, ExcludedNode, Phase, Progress, Reason, Status

from ..cluster.agent_access import speaks_tls
from ..cluster.protocol import Manifest
from .container import Ended, read_container

GIVEN_UP = (Reason.NODE_LOST, Reason.AGENT_SILENT, Reason.PREFLIGHT_FAILED)
"""Causes whose pods may look alive, and are made anew all the same."""
UNREADY_CONTAINER = "ContainersNotReady"
"""The kubelet's reason in the Ready condition; the node controller gives none when it takes that away for the kubelet."""
WITNESSES = 3
"""Agents on other nodes that are asked what they have heard of a silent one."""


@dataclass(frozen=True)
class Settings:
    """What the platform team decides for all runs."""

    trainer_image: str
    image_pull_policy: str = "IfNotPresent"
    agent_tls: bool = False
    """Whether agents of groups that begin now serve HTTPS."""
    excludes_nodes: bool = True
    """Whether there are others that pods can go to."""


@dataclass(frozen=True)
class Pod:
    """A pod of the run, as decisions see it."""

    manifest: Manifest
    name: str
    uid: str
    stage: str
    worker: int
    attempt: int
    node: str
    ip: str
    phase: str
    """The kubelet's word, but Pending as well while a container that was there is about to be started again."""
    tls: bool
    """Whether its agent serves HTTPS."""
    excluded: tuple[str, ...]
    """Nodes that it was made to keep off."""
    unschedulable: str
    """The scheduler's message; empty once the pod has a node."""
    waiting: tuple[str, str]
    """Reason and message of a container that does not start; empty strings otherwise."""
    deleting: datetime | None
    """When the pod must be gone: the end of its grace period."""
    disruption: str
    """Reason of the DisruptionTarget condition, if there is one."""
    exit_code: int | None
    exit_reason: str
    """The kubelet's word for the end, such as OOMKilled or Error."""
    ended: datetime | None
    termination: Termination | None
    starts: int
    """How often its container was started again in place."""
    before: Ended | None
    """How the container before that ended."""
    assigned: int
    """The attempt that its agent was last given, 0 if none is known."""
    assigned_time: datetime | None
    """When it took that."""
    agent: AgentState | None
    """What its agent last said, of whatever attempt; None of most pods, for one agent of a group is asked."""
    agent_changed: datetime | None
    """When that last differed from before."""
    agent_answered: datetime | None
    """When its agent last answered."""
    silent_since: datetime | None
    """The same of an agent that is asked and does not answer; None of all others."""
    unanswered: tuple[datetime, datetime] | None
    """When its agent was given its place in the current attempt and did not take it, for the first and for the last time."""
    looked_at: datetime | None
    """When it was last asked for by name, and found as it is here."""
    container_unready: bool
    """The kubelet, which is there, finds that the agent does not answer any more."""
    node_unready: bool
    """Kubernetes has not heard of the kubelet for long."""

    @property
    def alive(self) -> bool:
        """Whether the trainer may still run."""
        return self.exit_code is None and not self.over

    @property
    def over(self) -> bool:
        """Whether nothing of the pod runs any more. The kubelet says so a moment after the trainer has ended."""
        return self.phase in ("Succeeded", "Failed")

    @property
    def wanted(self) -> bool:
        """Whether it lives and nobody has asked it to go."""
        return self.alive and self.deleting is None and not self.disruption


@dataclass(frozen=True)
class Observation:
    """One run, its pods, what their agents say, and the time."""

    now: datetime
    watching_since: datetime
    """When this operator process began to watch, or its clock was set: clocks of silence don't start earlier."""
    run: TrainingRun
    errors: tuple[str, ...]
    """Mistakes in the spec that admission did not catch."""
    status: Status
    pods: tuple[Pod, ...]
    settings: Settings
    storage_uri: str
    progress_seconds: float
    """Between two writes of progress alone: the more runs train, the longer."""
    went: Pod | None = None
    """The pod of worker 0 that went last, with its last words."""
    refusal: str = ""
    """Why the cluster would not have a pod in the last pass."""
    restarts_in_place: bool = False
    """Whether the nodes start a container that was killed again in its pod."""
    said_by_others: tuple[tuple[str, ExcludedNode], ...] = ()
    """The nodes that other runs exclude, each with the run's namespace, but those that have been forgiven."""

    others_wait: bool = False
    """Whether other runs find no room."""

    @cached_property
    def stage(self) -> Stage:
        """The current stage; the first one where none has begun."""
        stages = {stage.name: stage for stage in self.run.spec.stages}
        return stages.get(self.status.stage or "", self.run.spec.stages[0])

    @cached_property
    def group(self) -> dict[int, Pod]:
        """For each worker the stage's pod that was made last; it may have outlived the attempt that it was made in."""
        mine = [pod for pod in self.pods if pod.stage == self.stage.name and pod.attempt <= self.status.attempt]
        newest = {pod.worker: pod for pod in sorted(mine, key=lambda pod: pod.attempt)}
        return {worker: newest[worker] for worker in sorted(newest)}

    def stays(self, pod: Pod) -> bool:
        """Whether the pod's agent will be there for the next attempt too."""
        return pod.wanted and not self.given_up(pod)

    def given_up(self, pod: Pod) -> bool:
        """Whether it is what the last recovery is from: nobody waits for its end, which a lost node never tells."""
        last = self.status.recoveries[-1] if self.status.recoveries else None
        if last is None or last.cause not in GIVEN_UP or pod.attempt > last.attempt:
            return False
        return pod.name == last.pod or (last.cause == Reason.NODE_LOST and pod.node == last.node != "")

    @property
    def speakers(self) -> list[Pod]:
        """The pods whose agents are asked: the first that runs, which hears from the others.

        If that is silent, those on its node as well, and some elsewhere, for what they have heard of it. Once agent 0 has left,
        for its work was done, nobody hears from the others any more, so all are asked.
        """
        running = [pod for pod in self.group.values() if pod.alive and pod.phase == "Running" and pod.ip]
        if running and 0 in self.group and not self.group[0].alive:
            return running
        if not running or running[0].silent_since is None:
            return running[:1]
        elsewhere = [pod for pod in running if pod.node != running[0].node]
        return [pod for pod in running if pod.node == running[0].node] + elsewhere[:WITNESSES]

    @cached_property
    def workers(self) -> int:
        """How many pods the group should have."""
        return self.run.spec.stage_workers(self.stage)

    @cached_property
    def speaking(self) -> dict[int, AgentState]:
        """What agents say of the current attempt; what they say of an older one is left out."""
        said = {worker: pod.agent for worker, pod in self.group.items() if pod.agent}
        return {worker: state for worker, state in said.items() if state.attempt == self.status.attempt}

    @property
    def agent(self) -> AgentState | None:
        """What the agent of rank 0 says of the current attempt."""
        return self.speaking.get(0)

    @property
    def checkpoint(self) -> CheckpointStatus | None:
        """The newest checkpoint of this stage; the status may still have that of the stage before."""
        return self.of_stage((self.agent.checkpoint if self.agent else None) or self.status.checkpoint)

    def of_stage(self, checkpoint: CheckpointStatus | None) -> CheckpointStatus | None:
        """The checkpoint, if it is one of this stage."""
        folder = artifact_uri(self.storage_uri, *self.run.key, self.stage.name)
        return checkpoint if checkpoint and checkpoint.uri.startswith(f"{folder}/") else None

    @property
    def agent_changed(self) -> datetime | None:
        """When an agent last said something new of the current attempt."""
        return later(*(self.group[worker].agent_changed for worker in self.speaking))

    @property
    def master_port(self) -> int | None:
        """Where rank 0 of the current attempt can be found, once its agent has said so."""
        first = self.group.get(0)
        return first.agent.master_port if first and first.agent else None

    @property
    def unassigned(self) -> list[Pod]:
        """Pods whose agents are not known to have their place in the current attempt.

        It is known if this process has given it, or if an agent speaks of it.
        """
        heard = {peer.worker for peer in self.peers}
        pods = [pod for pod in self.group.values() if pod.worker not in heard]
        return [pod for pod in pods if pod.alive and pod.assigned < self.status.attempt]

    @cached_property
    def peers(self) -> list[PeerState]:
        """What agents say of the current attempt, each of itself and the first of all others."""
        own = [
            PeerState(
                worker=worker,
                attempt=state.attempt,
                phase=state.phase,
                termination=state.termination,
                hang=state.hang,
            )
            for worker, state in self.speaking.items()
        ]
        told = [peer for state in self.speaking.values() for peer in state.peers]
        return [peer for peer in (*own, *told) if peer.attempt == self.status.attempt]

    @property
    def settled(self) -> bool:
        """Whether the group has been complete in this attempt: a pod that is gone now ended the attempt."""
        return self.status.phase in (Phase.QUEUED, Phase.STARTING, Phase.RUNNING)

    @property
    def between_attempts(self) -> bool:
        """Whether the current attempt has ended and the next one has not been written yet."""
        recoveries = self.status.recoveries
        return bool(recoveries) and recoveries[-1].attempt == self.status.attempt

    def seconds_since(self, time: datetime | str | None) -> float:
        """Seconds from `time` to now; 0 where there is no time."""
        if time is None:
            return 0.0
        return (self.now - (parse_time(time) if isinstance(time, str) else time)).total_seconds()

    def silent_seconds(self, *signs: datetime | str | None) -> float:
        """Seconds since the last of these signs of life, but no more than we have been watching for them.

        A sign from the future was given before the clock was set back: it says nothing.
        """
        times = [parse_time(sign) if isinstance(sign, str) else sign for sign in signs if sign is not None]
        return self.seconds_since(
            max((time for time in (*times, self.watching_since) if time <= self.now), default=None)
        )


def parse_time(text: str) -> datetime:
    """An RFC 3339 time, with its zone."""
    return datetime.fromisoformat(text)


def format_time(time: datetime) -> str:
    """RFC 3339 to the millisecond, in UTC."""
    return time.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def read_run(manifest: Manifest) -> tuple[TrainingRun, tuple[str, ...]]:
    """The run as stored, and the mistakes in it; a run with mistakes has nothing but its generation."""
    known = {name: manifest[name] for name in ("apiVersion", "kind", "metadata", "spec") if name in manifest}
    try:
        return TrainingRun.read_stored(known), ()
    except ValidationError as error:
        generation: dict[str, Any] = {"generation": known["metadata"].get("generation", 0)}
        alone: dict[str, Any] = {"metadata": Metadata.model_construct(**generation)}
        return TrainingRun.model_construct(**alone), tuple(explain_errors(error))


def read_pod(
    manifest: Manifest,
    assigned: tuple[int, datetime] | None = None,
    agent: AgentState | None = None,
    agent_changed: datetime | None = None,
    agent_answered: datetime | None = None,
    silent_since: datetime | None = None,
    unanswered: tuple[datetime, datetime] | None = None,
    looked_at: datetime | None = None,
) -> Pod:
    """The typed view of a pod's JSON, and what is known of its agent."""
    metadata, status = manifest["metadata"], manifest.get("status", {})
    labels = metadata["labels"]
    conditions = {c["type"]: c for c in status.get("conditions", ())}
    scheduled = conditions.get("PodScheduled", {})
    disruption = conditions.get("DisruptionTarget", {})
    ready = conditions.get("Ready", {})
    container = read_container(manifest)
    ended = container.ended
    node = manifest["spec"].get("nodeName") or ""
    deletion = metadata.get("deletionTimestamp")
    return Pod(
        manifest=manifest,
        name=metadata["name"],
        uid=metadata["uid"],
        stage=labels[LABEL_STAGE],
        worker=int(labels[LABEL_RANK]),
        attempt=int(labels[LABEL_ATTEMPT]),
        node=node,
        tls=speaks_tls(manifest),
        excluded=tuple(filter(None, metadata.get("annotations", {}).get(ANNOTATION_EXCLUDED, "").split(","))),
        ip=status.get("podIP", ""),
        phase="Pending" if container.absent else status.get("phase", "Pending"),
        unschedulable="" if node or scheduled.get("status") != "False" else scheduled.get("message", ""),
        waiting=container.waiting,
        deleting=parse_time(deletion) if deletion else None,
        disruption=disruption.get("reason", "") if disruption.get("status") == "True" else "",
        exit_code=ended.exit_code if ended else None,
        exit_reason=(ended.reason if ended else "") or status.get("reason", ""),
        ended=ended.time if ended else None,
        termination=ended.said if ended else None,
        starts=container.starts,
        before=container.before,
        assigned=assigned[0] if assigned else 0,
        assigned_time=assigned[1] if assigned else None,
        agent=agent,
        agent_changed=agent_changed,
        agent_answered=agent_answered,
        silent_since=silent_since,
        unanswered=unanswered,
        looked_at=looked_at,
        container_unready=ready.get("status") == "False"
        and ready.get("reason") == UNREADY_CONTAINER
        and container.was_ready_by(ready.get("lastTransitionTime")),
        node_unready=ready.get("status") == "False" and ready.get("reason") != UNREADY_CONTAINER,
    )


def last_progress(seen: Observation) -> Progress | None:
    """How far the stage has come, in this attempt or in an earlier one."""
    return (seen.agent.progress if seen.agent else None) or seen.status.progress


def later(*times: datetime | None) -> datetime | None:
    """The latest of the times that are known."""
    return max((time for time in times if time is not None), default=None)
