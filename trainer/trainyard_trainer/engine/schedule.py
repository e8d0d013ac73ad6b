"""The learning rate as a function of the step alone, so that resuming needs no schedule state."""

import math

from trainyard_api.stages import PretrainStage


def learning_rate(step: int, stage: PretrainStage) -> float:
    """The rate of optimizer step `step` (1 … steps): a line up to the peak, then half a cosine down to its share."""
    peak, schedule = stage.optimizer.learning_rate, stage.schedule
    if step <= schedule.warmup_steps:
        return peak * step / schedule.warmup_steps
    done = (step - schedule.warmup_steps) / max(1, stage.steps - schedule.warmup_steps)
    low = peak * schedule.final_fraction
    return low + (peak - low) * (1 + math.cos(math.pi * done)) / 2
