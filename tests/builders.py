"""Runs, pods and agents in one line each, for tables of cases about policies."""

from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Self

from trainyard_api.names import LABEL_ATTEMPT, LABEL_RANK, LABEL_RUN, LABEL_STAGE
from trainyard_api.protocol import AgentState, Artifact, PeerState, Termination
from trainyard_api.status import Phase, Progress, Reason, Status
from trainyard_operator.cluster.pace import progress_seconds
from trainyard_operator.decide.decide import decide
from trainyard_operator.decide.decision import Decision
from trainyard_operator.decide.observation import (
    Observation,
    Pod,
    Settings,
    format_time,
    parse_time,
    read_pod,
    read_run,
)

NOW = datetime(2026, 11, 24, 12, 0, 0, tzinfo=UTC)
UID = "0a1b2c3d-0000-4000-8000-000000000001"


def ago(seconds: float) -> datetime:
    """A moment before the tests' now."""
    return NOW - timedelta(seconds=seconds)


def manifest(**spec: Any) -> dict[str, Any]:
    """A valid run of prepare, pretrain (2 workers), export, with parts of its spec replaced."""
    stages = [
        {"name": "corpus", "prepare": {"sources": [{"builtin": "python-docs"}]}},
        {"name": "base", "pretrain": {"data": "corpus", "model": {"type": "llama"}, "steps": 100, "globalBatch": 24}},
        {"name": "out", "export": {"model": "base"}},
    ]
    return {
        "apiVersion": "trainyard.dev/v1alpha1",
        "kind": "TrainingRun",
        "metadata": {"name": "tiny", "namespace": "team", "uid": UID, "generation": 1, "resourceVersion": "7"},
        "spec": {"workers": {"count": 2}, "storage": {"claimName": "training"}, "stages": stages, **spec},
    }


def pod(worker: int = 0, stage: str = "base", attempt: int = 2, node: str = "node-a", **status: Any) -> dict[str, Any]:
    """A running pod of the run."""
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": f"tiny-{stage}-{worker}-{attempt}",
            "namespace": "team",
            "uid": f"pod-{stage}-{worker}-{attempt}",
            "resourceVersion": "8",
            "labels": {LABEL_RUN: "tiny", LABEL_STAGE: stage, LABEL_RANK: str(worker), LABEL_ATTEMPT: str(attempt)},
            "ownerReferences": [{"uid": UID}],
        },
        "spec": {"nodeName": node},
        "status": {"phase": "Running", "podIP": f"10.0.0.{worker + 1}", **status},
    }


def ended(code: int, worker: int = 0, seconds_ago: float = 1, reason: str = "Error", **kwargs: Any) -> dict[str, Any]:
    """A pod whose process has ended with `code`; cause, message, artifact and checkpoint go into its termination log."""
    said = {name: kwargs.pop(name) for name in ("cause", "message", "artifact", "checkpoint") if name in kwargs}
    log = Termination(exit_code=code, time=format_time(ago(seconds_ago)), **{"cause": "Crashed", **said})
    state = {
        "exitCode": code,
        "reason": reason,
        "finishedAt": format_time(ago(seconds_ago)),
        "message": log.model_dump_json(),
    }
    return pod(
        worker,
        **kwargs,
        phase="Succeeded" if code == 0 else "Failed",
        containerStatuses=[{"name": "trainer", "state": {"terminated": state}}],
    )


def done(worker: int = 0, **kwargs: Any) -> dict[str, Any]:
    """A pod that has done its part."""
    artifact = (
        Artifact(uri="file:///storage/team/tiny/base", digest="d1", metrics={"loss": 2.5}) if worker == 0 else None
    )
    return ended(0, worker, reason="Completed", cause="Done", artifact=artifact, **kwargs)


def deleting(pod: dict[str, Any], seconds_ago: float = 1) -> dict[str, Any]:
    """The pod with a deletion under way whose grace period ended so long ago."""
    return {**pod, "metadata": {**pod["metadata"], "deletionTimestamp": format_time(ago(seconds_ago))}}


def say(code: int, cause: str = "Crashed", seconds_ago: float = 1, **said: Any) -> dict[str, Any]:
    """What an agent that lives on shows of ranks that have ended."""
    time = format_time(ago(seconds_ago))
    return {"phase": "failed", "termination": Termination(exit_code=code, cause=cause, time=time, **said)}


def peer(worker: int, code: int, cause: str = "Crashed", attempt: int = 2, **said: Any) -> PeerState:
    """What agent 0 shows of another one whose ranks have ended."""
    return PeerState(worker=worker, attempt=attempt, **say(code, cause, **said))


def recovery(cause: Reason, attempt: int = 2, **fields: object) -> dict[str, object]:
    """A recovery on record, begun two seconds ago."""
    return {"time": format_time(ago(2)), "cause": cause, "stage": "base", "attempt": attempt, **fields}


def failure(seconds_ago: float, cause: Reason = Reason.PROCESS_FAILED, **fields: object) -> dict[str, object]:
    """A failure on record that counts."""
    return {"time": format_time(ago(seconds_ago)), "cause": cause, "stage": "base", **fields}


@dataclass(frozen=True)
class Case:
    """A run as seen; each method returns it with something more."""

    run: dict[str, Any]
    status: Status = field(default_factory=Status)
    pods: tuple[dict[str, Any], ...] = ()
    agent: AgentState | None = None
    agent_changed: datetime | None = None
    assigned: bool = False
    assigned_before: float = 30
    untold: int | None = None
    told_last: float = 0
    unanswered: float | None = None
    refusal: str = ""
    went: dict[str, Any] | None = None
    runs: int = 1
    looked: bool = True
    others_wait: bool = False

    def in_stage(self, stage: str = "base", phase: Phase = Phase.RUNNING, attempt: int = 2, **fields: Any) -> Self:
        """The run with a status that has got to this stage."""
        names = [s["name"] for s in self.run["spec"]["stages"]]
        stages = tuple(
            {
                "name": name,
                "phase": "Succeeded" if i < names.index(stage) else "Running" if name == stage else "Pending",
            }
            for i, name in enumerate(names)
        )
        reason = {Phase.RUNNING: Reason.TRAINING, Phase.RECOVERING: Reason.PROCESS_FAILED}.get(
            phase, Reason.STAGE_PENDING
        )
        known = {"phase": phase, "reason": reason, "stage": stage, "attempt": attempt, "stages": stages}
        known["observed_generation"] = 1
        if phase in (Phase.STARTING, Phase.RUNNING):
            known["ready_time"] = known["active_since"] = format_time(ago(10))
        status = Status.model_validate({**known, "workers": {"desired": 2, "ready": 2}, **fields})
        return replace(self, status=status)

    def with_pods(self, *pods: dict[str, Any]) -> Self:
        """The run with these pods."""
        return replace(self, pods=pods)

    def training(self, step: int = 50, changed: float = 1, attempt: int = 2, **state: Any) -> Self:
        """The run with an agent that has its assignment and reports progress."""
        known = {"progress": Progress(step=step, steps=100), "resumed_step": 0, "phase": "running"}
        agent = AgentState(version=9, attempt=attempt, master_port=29500, **{**known, **state})
        return replace(self, agent=agent, agent_changed=ago(changed), assigned=True)

    def idle_agent(self, attempt: int = 0) -> Self:
        """The run with an agent that waits for its assignment, its ranks of an earlier attempt having ended."""
        state = say(30, "PeerLost") if attempt else {}
        return replace(
            self, agent=AgentState(version=1, attempt=attempt, master_port=29500, **state), agent_changed=ago(1)
        )

    def unanswering(self, seconds: float) -> Self:
        """The run whose agent of worker 0 has not answered for so long."""
        return replace(self, unanswered=seconds)

    def not_told(self, worker: int, last: float = 0) -> Self:
        """The run with a worker whose agent does not take its assignment, which it was given `last` seconds ago again."""
        return replace(self, untold=worker, told_last=last)

    def given_places(self, seconds_ago: float) -> Self:
        """The run whose agents took their places then."""
        return replace(self, assigned_before=seconds_ago)

    def refused(self, message: str) -> Self:
        """The run whose pods the cluster would not have."""
        return replace(self, refusal=message)

    def lost(self, pod: dict[str, Any]) -> Self:
        """The run after this pod of worker 0 has gone."""
        return replace(self, went=pod)

    def where_others_wait(self) -> Self:
        """The run in a cluster in which other runs find no room either."""
        return replace(self, others_wait=True)

    def unlooked(self) -> Self:
        """The run whose pods nobody has asked for by name."""
        return replace(self, looked=False)

    def among(self, runs: int) -> Self:
        """The run where so many train."""
        return replace(self, runs=runs)

    def seen(self) -> Observation:
        """All of it as an observation."""
        run, errors = read_run(self.run)
        return Observation(
            now=NOW,
            watching_since=ago(10_000),
            run=run,
            errors=errors,
            status=self.status,
            pods=tuple(self._read(p) for p in self.pods),
            settings=Settings(trainer_image="trainer:1"),
            storage_uri="file:///storage",
            progress_seconds=progress_seconds(self.runs),
            refusal=self.refusal,
            went=read_pod(self.went) if self.went else None,
            others_wait=self.others_wait,
        )

    def _read(self, pod: dict[str, Any]) -> Pod:
        worker = int(pod["metadata"]["labels"][LABEL_RANK])
        told = ago(self.assigned_before)
        assigned = (self.status.attempt, told) if self.assigned and worker != self.untold else None
        looked_at = NOW if self.looked else None
        ready = self.status.ready_time
        unanswered = (parse_time(ready), ago(self.told_last)) if worker == self.untold and ready else None
        if worker == 0:
            silent = ago(self.unanswered) if self.unanswered else None
            return read_pod(pod, assigned, self.agent, self.agent_changed, silent or NOW, silent, unanswered, looked_at)
        if not (said := pod["status"].get("agent")):
            return read_pod(pod, assigned, unanswered=unanswered, looked_at=looked_at)
        agent = AgentState(version=1, master_port=29500, **said)
        return read_pod(pod, assigned, agent, ago(1), NOW, looked_at=looked_at)

    def decide(self) -> Decision:
        """What is decided about it."""
        return decide(self.seen())


def a_run(**spec: Any) -> Case:
    """A run that nothing has been done about."""
    return Case(manifest(**spec))
