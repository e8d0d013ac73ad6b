"""A checkpoint that ranks found bad goes on record and is told, before anything else is decided: someone may have to look at
the storage, however well the run goes on from the checkpoint before.
"""

from .decision import Decision, Event, change
from .observation import Observation

KEPT_QUARANTINED = 5


def quarantining(seen: Observation) -> Decision | None:
    """Put what the agent of rank 0 says of bad checkpoints into the status, with an event for each."""
    agent = seen.agent
    if agent is None:
        return None
    new = [each for each in agent.quarantined[-KEPT_QUARANTINED:] if each not in seen.status.quarantined]
    if not new:
        return None
    status = change(seen, quarantined=(*seen.status.quarantined, *new)[-KEPT_QUARANTINED:])
    events = tuple(
        Event(
            "Warning",
            "CheckpointQuarantined",
            f"stage {seen.stage.name}: the checkpoint of step {each.step} is bad and was set aside: {each.reason}",
        )
        for each in new
    )
    return Decision(status, look_again=0, events=events)
