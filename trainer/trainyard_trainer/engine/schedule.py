"""The learning rate as a function of the step alone, so that resuming needs no schedule state."""

import math

from trainyard_api.training_stages import TrainingStage


def learning_rate(step: int, stage: TrainingStage) -> float:
    """The rate of optimizer step `step` (1 … steps): a line up to the peak, then down to its share at the last step."""
    peak, schedule = stage.optimizer.learning_rate, stage.schedule
    if step <= schedule.warmup_steps:
        return peak * step / schedule.warmup_steps
    falls_from = schedule.warmup_steps
    if schedule.shape == "WarmupStableDecay":
        falls_from = max(falls_from, stage.steps - (schedule.decay_steps or math.ceil(stage.steps / 10)))
    done = max(0, step - falls_from) / max(1, stage.steps - falls_from)
    left = (1 + math.cos(math.pi * done)) / 2 if schedule.shape == "Cosine" else 1 - done
    low = peak * schedule.final_fraction
    return low + (peak - low) * left
