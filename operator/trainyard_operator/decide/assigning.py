"""Every agent is told its place once all of the group run: the gang's barrier, with addresses that are known."""

from trainyard_api.protocol import Assignment
from trainyard_api.status import Phase, Reason

from .decision import Assign, Decision, change
from .objects import job_of
from .observation import Observation, format_time


def assigning(seen: Observation) -> Decision | None:
    """Give the group its assignment; say it again after a restart of the operator."""
    unassigned = [pod for pod in seen.group.values() if pod.alive and pod.assigned < seen.status.attempt]
    if not unassigned:
        return None
    starting = {
        "phase": Phase.STARTING if seen.status.phase != Phase.RUNNING else Phase.RUNNING,
        "placed_time": seen.status.placed_time or format_time(seen.now),
        "workers": seen.status.workers.model_copy(update={"ready": len(seen.group)}),
        "waiting": None,
        "message": "",
    }
    if seen.agent is None:
        reason = seen.status.reason if seen.status.phase == Phase.RUNNING else Reason.WAITING_FOR_AGENTS
        return Decision(change(seen, reason=reason, **starting), look_again=1)
    first = seen.group[0]
    job = job_of(seen)
    actions = tuple(
        Assign(
            pod.manifest,
            Assignment(
                attempt=seen.status.attempt,
                workers=seen.workers,
                worker=pod.worker,
                ranks_per_worker=seen.run.spec.ranks_per_worker(seen.stage),
                master_address=first.ip,
                master_port=seen.agent.master_port,
                job=job,
            ),
        )
        for pod in unassigned
    )
    reason = seen.status.reason if seen.status.phase == Phase.RUNNING else Reason.STARTING_RANKS
    return Decision(change(seen, reason=reason, **starting), actions=actions, look_again=1)
