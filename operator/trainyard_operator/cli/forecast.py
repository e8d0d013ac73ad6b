"""How long a planned stage takes, what it draws and costs, what of it fits, and which settings would be better.

step     FLOPs a token × tokens a step ÷ (ranks × FLOP a second that a rank achieves)
achieved peak of the hardware × assumed MFU, or what a run has measured
energy   TDP × ranks × time: a bound, for no GPU draws that all the time
cost     price × ranks × time
saving   Young's interval √(2 × cost of a save × time between failures), as `everySeconds: auto` measures it later
"""

from dataclasses import dataclass, replace
from math import sqrt
from typing import Any

from trainyard_api.checkpoint_settings import RANK_SECONDS_TO_FAILURE
from trainyard_api.hardware import Hardware
from trainyard_api.memory import memory_of_a_rank
from trainyard_api.planning import Plan

from . import words

SNAPSHOT_BYTES_PER_SECOND = 10e9
"""From device to host, before it is measured: half of what PCIe 4 carries."""


@dataclass(frozen=True)
class Speed:
    """What a rank achieves."""

    flops: float
    """A second."""
    source: str
    """In words: how that is known."""


@dataclass(frozen=True)
class Forecast:
    """A plan on some hardware. What can't be known is None."""

    plan: Plan
    name: str | None
    hardware: Hardware | None
    speed: Speed | None

    @property
    def step_seconds(self) -> float | None:
        """Of one optimizer step."""
        if self.speed is None:
            return None
        return self.plan.flops_per_token * self.plan.tokens_a_step / (self.plan.layout.ranks * self.speed.flops)

    @property
    def seconds(self) -> float | None:
        """Of all steps."""
        return None if self.step_seconds is None else self.step_seconds * self.plan.settings.steps

    @property
    def joules(self) -> float | None:
        """At most."""
        if self.seconds is None or self.hardware is None:
            return None
        return self.hardware.watts * self.plan.all_ranks * self.seconds

    @property
    def dollars(self) -> float | None:
        """For the GPUs."""
        if self.seconds is None or self.hardware is None or self.hardware.price_per_hour is None:
            return None
        return self.hardware.price_per_hour * self.plan.all_ranks * self.seconds / 3600

    @property
    def save_seconds(self) -> float:
        """Between two saves, by Young's formula."""
        layout = replace(self.plan.layout, on_gpu=True, snapshot_slots=1)
        cost = memory_of_a_rank(self.plan.model, layout).host / SNAPSHOT_BYTES_PER_SECOND
        return max(1.0, min(3600.0, sqrt(2 * cost * RANK_SECONDS_TO_FAILURE / layout.ranks)))

    @property
    def fitting(self) -> dict[int, int | None]:
        """ZeRO stage → the largest micro-batch that fits; None if none does. ZeRO 0 is refused with bf16."""
        stages = range(1 if self.plan.layout.bf16 else 0, 4)
        return {0: None} | {zero: self.plan.fitting(zero, self.hardware) for zero in stages}

    @property
    def fits(self) -> bool:
        """As it is written."""
        return self.plan.fits(self.plan.layout, self.hardware)

    def warnings(self) -> list[str]:
        """What will go wrong, each with field and remedy."""
        plan, layout = self.plan, self.plan.layout
        found = []
        needed, where = plan.needed(layout), f"stage {plan.stage}"
        if needed > plan.worker_memory:
            found.append(
                f"resources.memory: {where} needs {words.size(needed)} a worker, {words.size(plan.worker_memory)} are given; "
                f"raise it{self._instead()}"
            )
        if layout.on_gpu and self.hardware:
            alone = plan.memory.device
            if not self.fits and needed <= plan.worker_memory:
                found.append(
                    f"pretrain.microBatch: {where} needs {words.size(alone)} of a GPU, {self.name} has "
                    f"{words.size(self.hardware.memory_bytes)}; use more of them{self._instead()}"
                )
        if layout.on_gpu and not layout.bf16:
            found.append(
                f"pretrain.deepspeed: {where} trains in fp32; bf16: {{enabled: true}} with ZeRO 1 or more is faster"
            )
        return found

    def _instead(self) -> str:
        better = self.suggestion()
        return f", or set {better}" if better else ", or use more workers: no setting of ZeRO and microBatch fits"

    def suggestion(self) -> str | None:
        """The lowest ZeRO stage that fits, for each costs more traffic, with the most sequences at once."""
        found = ((zero, size) for zero, size in self.fitting.items() if size)
        return next((f"zero_optimization.stage: {zero}, microBatch: {size}" for zero, size in found), None)

    def wire(self) -> dict[str, Any]:
        """For `--json`; bytes, seconds, joules, dollars."""
        plan = self.plan
        layouts = {zero: replace(plan.layout, zero=zero) for zero in range(4)}
        memories = {zero: memory_of_a_rank(plan.model, layout) for zero, layout in layouts.items()}
        return {
            "stage": plan.stage,
            "parameters": plan.model.parameters,
            "multipliedParameters": plan.model.multiplied,
            "flopsPerToken": plan.flops_per_token,
            "tokens": plan.tokens,
            "flops": plan.flops_per_token * plan.tokens,
            "ranks": plan.layout.ranks,
            "zero": plan.layout.zero,
            "microBatch": plan.layout.micro_batch,
            "rankMemory": {
                str(zero): {**memory.parts(), "total": memory.device, "largestMicroBatch": self.fitting[zero]}
                for zero, memory in memories.items()
            },
            "rankMemoryBytes": plan.memory.device,
            "workerMemoryBytes": plan.needed(plan.layout),
            "checkpointBytes": plan.checkpoint_bytes,
            "saveSeconds": self.save_seconds,
            "hardware": self.name,
            "flopsPerSecond": self.speed.flops if self.speed else None,
            "stepSeconds": self.step_seconds,
            "seconds": self.seconds,
            "joules": self.joules,
            "dollars": self.dollars,
            "fits": self.fits,
            "suggestion": self.suggestion(),
            "warnings": self.warnings(),
        }
