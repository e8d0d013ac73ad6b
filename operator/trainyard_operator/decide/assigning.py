"""Every agent is told its place once all of the group run: the gang's barrier, with addresses that are known.

That the group is complete is on record first. A pod that is gone afterwards ends the attempt: its peers know its address, and
an agent takes one place an attempt.
"""

from trainyard_api.protocol import Assignment
from trainyard_api.status import Phase, Reason, Status

from .decision import Assign, Decision, change, nothing
from .objects import job_of
from .observation import Observation, format_time


def assigning(seen: Observation) -> Decision | None:
    """Give the group its assignment; say it again after a restart of the operator."""
    if seen.status.ready_time is None:
        return Decision(_ready(seen), look_again=0)
    if not seen.unassigned:
        return None
    if seen.master_port is None:
        return nothing(seen, look_again=1)
    job = job_of(seen)
    addresses = [pod.ip for pod in seen.group.values()]
    actions = tuple(
        Assign(
            pod.manifest,
            Assignment(
                attempt=seen.status.attempt,
                workers=seen.workers,
                worker=pod.worker,
                ranks_per_worker=seen.run.spec.ranks_per_worker(seen.stage),
                master_address=addresses[0],
                master_port=seen.master_port,
                addresses=addresses,
                job=job,
            ),
        )
        for pod in seen.unassigned
    )
    waits = seen.status.reason == Reason.WAITING_FOR_AGENTS
    status = change(seen, reason=Reason.STARTING_RANKS) if waits else seen.status
    return Decision(status, actions=actions, look_again=1)


def _ready(seen: Observation) -> Status:
    now = format_time(seen.now)
    return change(
        seen,
        phase=Phase.STARTING,
        reason=Reason.WAITING_FOR_AGENTS,
        message="",
        placed_time=seen.status.placed_time or now,
        ready_time=now,
        workers=seen.status.workers.model_copy(update={"ready": len(seen.group)}),
        waiting=None,
    )
