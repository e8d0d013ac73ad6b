"""Whether a global batch may change the weights: judged by its loss and gradient norm before it has changed any.

A batch that may not is left out, and the same optimizer step is made with the next one in the order of data: all of `steps`
are made, the schedule knows nothing of it, and which batch a step trains on is a sum, `step + passed`.

The judgement is a function of figures that all ranks have to the bit and of the history below, which is part of every
checkpoint. So a run that was killed judges again as it had, and what it had left out stays out, at any world size.

A roll-back ends the attempt, and the next one begins with an older checkpoint and the batch after the bad one: fresh ranks
take seconds, the steps that are made again take longer. So there is no second way to load a state and no memory of an engine
that is not quite gone, and newer checkpoints become void as those of a dead attempt do.
"""

import math
from collections import deque
from dataclasses import dataclass

import torch
from torch import Tensor
from trainyard_api.checkpoint import RolledBack
from trainyard_api.numerics import FaultKind, NumericsSettings


@dataclass(frozen=True)
class Fault:
    """What is wrong with a global batch, and what is done about it."""

    kind: FaultKind
    action: str
    """`Skip`, `RollBack` or `Stop`."""
    step: int
    """The optimizer step that the batch was for."""
    loss: float
    grad_norm: float
    """Not finite if that is what is wrong, or if it wasn't measured."""
    what: str
    """In words."""


class Numerics:
    """The history of one training, the same on all ranks."""

    def __init__(self, settings: NumericsSettings) -> None:
        self.settings = settings
        self.passed = 0
        """Global batches in the order of data that no step was made with."""
        self.skipped = 0
        """Of them, those that were left out."""
        self.dropped = 0
        """Updates that were not made of steps that were, where these have several."""
        self._losses: deque[float] = deque(maxlen=settings.spike.window)
        self._faults: deque[int] = deque(maxlen=settings.max_faults)

    def batch(self, step: int) -> int:
        """The global batch (1, 2, … in the order of data) to make a step with."""
        return step + self.passed

    def judge_loss(self, step: int, loss: float) -> Fault | None:
        """What is wrong with a batch of this mean loss, its gradients not yet considered."""
        if not math.isfinite(loss):
            return self._fault("NonFinite", step, loss, math.nan, f"loss {loss}")
        spike = self.settings.spike
        if spike.action == "Ignore" or len(self._losses) < spike.window:
            return None
        mean = math.fsum(self._losses) / spike.window
        deviation = math.sqrt(math.fsum((each - mean) ** 2 for each in self._losses) / spike.window)
        if loss <= mean + spike.deviations * deviation:
            return None
        what = f"loss {loss:.4g}, where the last {spike.window} are {mean:.4g} ± {deviation:.2g}"
        return self._fault("Spike", step, loss, math.nan, what)

    def judge_gradients(self, step: int, loss: float, grad_norm: float) -> Fault | None:
        """What is wrong with a batch of this gradient norm, its loss being in order."""
        if math.isfinite(grad_norm):
            return None
        return self._fault("NonFinite", step, loss, grad_norm, f"gradient norm {grad_norm}, loss {loss:.4g}")

    def trained(self, loss: float) -> None:
        """A step was made with a batch of this loss."""
        self._losses.append(loss)

    def leave_out(self, fault: Fault) -> None:
        """The batch is left out: its step is made with the next one."""
        self.passed += 1
        self.skipped += 1
        self._faults.append(fault.step)

    def overrule(self, rolled_back: RolledBack | None, step: int) -> None:
        """Pass over what the last roll-back has passed over, for a state after `step` that may be from before it."""
        if rolled_back and rolled_back.batch - step > self.passed:
            self.passed = rolled_back.batch - step
            self.skipped = rolled_back.skipped
            self._faults = deque(rolled_back.faults, maxlen=self.settings.max_faults)

    @property
    def faults(self) -> list[int]:
        """The steps of the last ones."""
        return list(self._faults)

    def tensors(self) -> dict[str, Tensor]:
        """The history, always of the same shapes."""
        return {
            "counts": torch.tensor([self.passed, self.skipped, self.dropped]),
            "losses": _filled(self._losses, math.nan, torch.float64),
            "faults": _filled(self._faults, -1, torch.int64),
        }

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Go on from what `tensors` was, whatever was kept of it then."""
        self.passed, self.skipped, *dropped = tensors["counts"].tolist()
        self.dropped = sum(dropped)  # which older checkpoints don't have
        self._losses.extend(each for each in tensors["losses"].tolist() if not math.isnan(each))
        self._faults.extend(each for each in tensors["faults"].tolist() if each >= 0)

    def _fault(self, kind: FaultKind, step: int, loss: float, grad_norm: float, what: str) -> Fault:
        wanted = self.settings.non_finite if kind == "NonFinite" else self.settings.spike.action
        recent = sum(each > step - self.settings.within_steps for each in self._faults)
        if recent < self.settings.max_faults:
            return Fault(kind, wanted, step, loss, grad_norm, what)
        limit = f"maxFaults = {recent} within {self.settings.within_steps} steps are used up"
        return Fault(kind, "Stop", step, loss, grad_norm, f"{what}; {limit}")


def _filled(values: deque, nothing: float, dtype: torch.dtype) -> Tensor:  # type: ignore[type-arg]
    return torch.tensor([*values, *[nothing] * ((values.maxlen or 0) - len(values))], dtype=dtype)
