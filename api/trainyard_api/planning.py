"""What a training stage will take, worked out from the run alone, before anything of it runs.

The vocabulary is the one that the corpus's tokenizer is trained for; a small corpus may give fewer entries. What can't be known
before (a model that is read from a folder of the cluster) gives no plan, and neither do adapters of one.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from .architecture import Architecture, architecture
from .hardware import Hardware
from .memory import PROCESS_BYTES, Layout, Memory, layout_of, memory_of_a_rank
from .quantity import whole
from .rollout_stages import PpoStage, RolloutStage
from .run import Spec, Stage
from .status import PlanStatus
from .training_stages import TrainingStage

POSITIONS = {"gpt2": "n_positions"}
"""Model type → its field for positions, where it isn't max_position_embeddings: sequenceLength where it is left out."""
CHECKPOINT_BYTES = 12
"""Of a parameter: fp32 master and two moments."""
_INT64 = 2**63 - 1
FREE = 0.95
"""Of a GPU's memory, for the allocator never packs tensors without gaps."""


@dataclass(frozen=True)
class Plan:
    """What one stage takes."""

    stage: str
    settings: TrainingStage
    model: Architecture
    layout: Layout
    workers: int
    ranks_per_worker: int
    worker_memory: int
    """Bytes that `resources.memory` allows a worker."""

    @property
    def tokens_a_step(self) -> int:
        """Over all ranks."""
        return self.settings.tokens_a_step

    @property
    def tokens(self) -> int:
        """Of the whole stage."""
        return self.settings.steps * self.tokens_a_step

    @property
    def flops_per_token(self) -> int:
        """Forward and backward, each time that it is learned from; drawing responses is not counted."""
        times = self.settings.updates // self.settings.mini_batches
        return self.layout.models * times * self.model.flops_per_token(self.settings.sequence_length)

    @property
    def memory(self) -> Memory:
        """Of a rank."""
        return memory_of_a_rank(self.model, self.layout)

    @property
    def checkpoint_bytes(self) -> int:
        """Of one checkpoint, by all ranks together."""
        return CHECKPOINT_BYTES * self.model.parameters * self.layout.models

    def needed(self, layout: Layout) -> int:
        """Bytes of a worker's own memory, all ranks and their processes."""
        memory = memory_of_a_rank(self.model, layout)
        of_a_rank = memory.host if layout.on_gpu else memory.device
        return self.ranks_per_worker * (of_a_rank + PROCESS_BYTES)

    def fits(self, layout: Layout, hardware: Hardware | None) -> bool:
        """Whether a rank fits its device, and a worker its memory."""
        if self.needed(layout) > self.worker_memory:
            return False
        if not layout.on_gpu or hardware is None:
            return True
        return memory_of_a_rank(self.model, layout).device + PROCESS_BYTES <= FREE * hardware.memory_bytes

    def micro_batches(self) -> list[int]:
        """Those that divide a rank's share of the global batch."""
        share = self.settings.global_batch * self.settings.sharers // self.layout.ranks // self.settings.mini_batches
        return [size for size in range(1, share + 1) if share % size == 0]

    def fitting(self, zero: int, hardware: Hardware | None) -> int | None:
        """The largest micro-batch that fits with a ZeRO stage; None if not even one sequence does."""
        sizes = (
            size
            for size in reversed(self.micro_batches())
            if self.fits(replace(self.layout, zero=zero, micro_batch=size), hardware)
        )
        return next(sizes, None)

    @property
    def all_ranks(self) -> int:
        """With those that draw and don't learn."""
        return self.layout.ranks + self.settings.drawing_workers * self.ranks_per_worker

    def status(self) -> PlanStatus:
        """What the run's status says of it."""
        return PlanStatus(
            parameters=self.model.parameters,
            flops_per_token=self.flops_per_token,
            rank_memory_bytes=self.memory.device,
            worker_memory_bytes=self.needed(self.layout),
            checkpoint_bytes=self.checkpoint_bytes,
        )


def plan_of(spec: Spec, stage: Stage) -> Plan | None:
    """The plan of a stage that trains; None for others, and where the model isn't known before.

    Also None for a configuration that makes no sense: the trainer says so, in transformers' words.
    """
    try:
        plan = _plan_of(spec, stage, stage.training) if stage.training else None
        return plan if plan and all(0 < each <= _INT64 for each in plan.status().model_dump().values()) else None
    except (ArithmeticError, LookupError, TypeError, ValueError):
        return None


def _plan_of(spec: Spec, stage: Stage, settings: TrainingStage) -> Plan | None:
    model = _model(spec, settings)
    if model is None:
        return None
    resources = spec.stage_resources(stage)
    workers = spec.stage_workers(stage) - settings.drawing_workers
    one = layout_of(settings, spec.learners(stage), on_gpu=resources.gpus > 0)
    if isinstance(settings, RolloutStage):
        one = replace(one, critic=isinstance(settings, PpoStage), frozen=_frozen(spec, settings, model, one))
    shard = memory_of_a_rank(model, replace(one, on_gpu=True, offload_optimizer=False, offload_parameters=False)).host
    kept = resources.ranks * shard * (2 + (workers > 1))
    return Plan(
        stage=stage.name,
        settings=settings,
        model=model,
        layout=replace(one, snapshot_slots=2 if kept <= spec.memory_budget(stage) else 1),
        workers=workers,
        ranks_per_worker=resources.ranks,
        worker_memory=whole(resources.memory),
    )


def _frozen(spec: Spec, settings: RolloutStage, model: Architecture, layout: Layout) -> int:
    """Bytes of the reference, and of the reward models, which stay in fp32. LookupError if one of these isn't known."""
    total = layout.element * model.parameters if settings.policy.kl else 0
    stages = {each.name: each for each in spec.stages}
    for each in settings.rewards:
        if each.stage is not None:
            training = stages[each.stage].training
            judge = _model(spec, training) if training else None
            if judge is None:
                raise LookupError(each.stage)
            total += 4 * (judge.parameters - (0 if judge.tied else judge.head))
    return total


def _model(spec: Spec, settings: TrainingStage) -> Architecture | None:
    """What the stage trains: by its own configuration, or as the earlier stage has it that it begins with."""
    stages = {each.name: each for each in spec.stages}
    origin = settings
    while origin.model.stage is not None:
        earlier = stages[origin.model.stage].training
        if earlier is None:
            return None
        origin = earlier
    if origin.model.type is None or settings.model.lora:
        return None
    return architecture(origin.model.type, _config(origin, _vocabulary(spec, next(iter(origin.parts.values())).data)))


def _config(settings: TrainingStage, vocabulary: int) -> Mapping[str, Any]:
    assert settings.model.type
    positions = POSITIONS.get(settings.model.type, "max_position_embeddings")
    return {positions: settings.sequence_length, **(settings.model.config or {}), "vocab_size": vocabulary}


def _vocabulary(spec: Spec, corpus: str) -> int:
    """Entries of the tokenizer that a prepare stage trains, or takes from another. LookupError where a folder has it."""
    stages = {each.name: each for each in spec.stages}
    prepared = stages[corpus].prepare
    assert prepared
    if prepared.tokenizer.path:
        raise LookupError(prepared.tokenizer.path)
    return _vocabulary(spec, prepared.tokenizer.stage) if prepared.tokenizer.stage else prepared.tokenizer.trained_size
