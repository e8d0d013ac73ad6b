"""What a pod is given between SIGTERM and SIGKILL: what it has been measured to need, so that its last step is saved.

A group that is told to stop ends its step, waits for the save that is under way, then writes one more: a step, a stall and
twice the time until durable. Storage that others use as well is as slow as twice the last measurement now and then. Pods
are told when they are made, so a measurement counts from the next pod on; a pod of before keeps what it was given.
"""

import math

from .observation import Observation

UNMEASURED_SECONDS = 60
"""Before the first checkpoint."""
LEAST_SECONDS, MOST_SECONDS = 30, 1_800
"""No single measurement takes a node from its owner for longer; who needs more says so in recovery.graceSeconds."""
MARGIN = 2.0
LEAVING_SECONDS = 10
"""For ranks to leave and the agent to say why, which has 5 s of it."""


def grace_seconds(seen: Observation) -> int:
    """The grace period of pods that are made now, in whole seconds."""
    if given := seen.run.spec.recovery.grace_seconds:
        return given
    if not seen.stage.training:  # nothing to save: its ranks leave at once
        return LEAST_SECONDS
    checkpoint, progress = seen.checkpoint, seen.status.progress
    if checkpoint is None or checkpoint.durable_seconds is None:
        return UNMEASURED_SECONDS
    step = (progress.step_seconds if progress else None) or 0.0
    needed = step + (checkpoint.stall_seconds or 0.0) + 2 * checkpoint.durable_seconds
    return max(LEAST_SECONDS, min(MOST_SECONDS, math.ceil(MARGIN * needed) + LEAVING_SECONDS))
