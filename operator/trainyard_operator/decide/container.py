"""The trainer's container of a pod as its kubelet shows it: whether it runs, how it ended, how often it was started again.

A container that was killed is started again in its pod where the nodes can do that (Kubernetes 1.36 and later): same pod,
same address, same node. Measured on kind: it runs again after 0.7 to 5 s, the fifth time as soon as the first, for
`RestartAllContainers` knows no back-off, whereas the action `Restart` took 13, 26 and 55 s. How the old one ended
is shown for a moment only (the new status has neither time nor reason of it), so the store keeps what it saw of that.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from pydantic import ValidationError
from trainyard_api.names import TRAINER_CONTAINER
from trainyard_api.protocol import Termination

from ..cluster.protocol import Manifest

KILLED_CODES = (134, 135, 137, 139)
"""By SIGABRT, SIGBUS, SIGKILL, SIGSEGV: what an agent never leaves with by itself. With any other code it has said something
that the next one would only repeat (0, 10, 20), or is a program that does not run (1, 127).
"""
RULES = [{"action": "RestartAllContainers", "exitCodes": {"operator": "In", "values": list(KILLED_CODES)}}]
BACKING_OFF = "CrashLoopBackOff"


@dataclass(frozen=True)
class Ended:
    """How a container ended."""

    exit_code: int
    reason: str
    """The kubelet's word for it, such as OOMKilled or Error."""
    time: datetime | None
    said: Termination | None


@dataclass(frozen=True)
class Container:
    """The trainer's container now."""

    waiting: tuple[str, str]
    """Reason and message, if it does not start; empty strings otherwise."""
    ended: Ended | None
    """It has ended, and is not started again."""
    starts: int
    """How often it was started again, or is being so."""
    before: Ended | None
    """How the one before ended."""
    absent: bool
    """It was there before, and is about to be started again."""
    started: datetime | None
    """When it was, if it runs."""

    def was_ready_by(self, unready: str | None) -> bool:
        """Whether a condition that became so then tells of a container that had been ready: from its start until its first
        probe it is unready, and that says nothing of its node since.
        """
        if self.started is None:
            return True
        return unready is not None and datetime.fromisoformat(unready) > self.started


def read_container(pod: Manifest) -> Container:
    """From the pod's JSON."""
    status = pod.get("status", {})
    own = _own(pod)
    state, count = own.get("state", {}), int(own.get("restartCount", 0))
    waiting = state.get("waiting", {})
    ended = _read_end(state.get("terminated"))
    before = _read_end(own.get("lastState", {}).get("terminated")) if count else None
    started = state.get("running", {}).get("startedAt")
    again = ended is not None and status.get("phase") == "Running" and ended.exit_code in _restarted_codes(pod)
    return Container(
        waiting=(waiting.get("reason", ""), waiting.get("message", "")),
        ended=None if again else ended,
        starts=count + again,
        before=ended if again else before,
        absent=again or bool(count and waiting),
        started=datetime.fromisoformat(started) if started else None,
    )


def _restarted_codes(pod: Manifest) -> set[int]:
    """Exit codes with which its kubelet starts the trainer again: an API server that can't do that has dropped the rules."""
    if pod["metadata"].get("deletionTimestamp"):
        return set()
    containers: list[Manifest] = pod["spec"].get("containers", [])
    own = (container for container in containers if container["name"] == TRAINER_CONTAINER)
    rules: list[Any] = [rule for container in own for rule in container.get("restartPolicyRules", ())]
    return {code for rule in rules for code in rule["exitCodes"]["values"]}


def _read_end(terminated: Manifest | None) -> Ended | None:
    if not terminated:
        return None
    said = _read_termination(terminated.get("message", ""))
    time = said.time if said and said.time else terminated.get("finishedAt")
    return Ended(
        exit_code=terminated["exitCode"],
        reason=terminated.get("reason", ""),
        time=datetime.fromisoformat(time) if time else None,
        said=said,
    )


def _read_termination(message: str) -> Termination | None:
    try:
        return Termination.model_validate_json(message)
    except ValidationError:
        return None


def slim_spec(pod: Manifest) -> list[Manifest]:
    """What is read here of the containers' specs."""
    return [
        {name: container[name] for name in ("name", "restartPolicyRules") if name in container}
        for container in pod.get("spec", {}).get("containers", ())
        if container["name"] == TRAINER_CONTAINER
    ]


def statuses(pod: Manifest, before: Manifest | None) -> list[Manifest]:
    """The trainer's status, with what an earlier one of the pod had of the end of a container that was started again since."""
    known = _own(before) if before else {}
    own = _own(pod)
    told = own.get("lastState", {}).get("terminated")
    if told and not told.get("finishedAt"):
        count, was = own.get("restartCount", 0), known.get("restartCount", 0)
        end = known.get("state", {}).get("terminated") if was == count - 1 else None
        end = known.get("lastState", {}).get("terminated") if was == count else end
        own = {**own, "lastState": {"terminated": end or told}}
    return [own] if own else []


def _own(pod: Manifest) -> Manifest:
    found = (c for c in pod.get("status", {}).get("containerStatuses", ()) if c["name"] == TRAINER_CONTAINER)
    return next(found, {})
