"""The TrainingRun: what a user writes, whole, and the rules that hold across its parts."""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, StringConstraints

from .model import Mistake, Model, Rule, rule
from .names import MAX_RUN_AND_STAGE
from .stages import EvaluateStage, ExportStage, PrepareStage, PretrainStage, StageName
from .status import Status

Quantity = Annotated[str, StringConstraints(pattern=r"^[0-9]+(\.[0-9]+)?(m|k|M|G|T|Ki|Mi|Gi|Ti)?$", max_length=20)]
"""An amount as in pods: "500m", "2", "16Gi"."""

StageKind = Literal["prepare", "pretrain", "evaluate", "export"]
KINDS: tuple[StageKind, ...] = ("prepare", "pretrain", "evaluate", "export")
SINGLE_PROCESS_KINDS: tuple[StageKind, ...] = ("prepare", "export")
"""Stages whose work is one process's, whatever the run's workers are."""

REFERENCES: tuple[tuple[StageKind, str, StageKind], ...] = (
    ("pretrain", "data", "prepare"),
    ("evaluate", "model", "pretrain"),
    ("evaluate", "data", "prepare"),
    ("export", "model", "pretrain"),
)
"""Which field of which kind names an earlier stage of which kind."""


class Storage(Model):
    """Where artifacts and checkpoints go."""

    uri: Annotated[str, StringConstraints(pattern=r"^file:///.+", max_length=1024)] = "file:///storage"
    """A folder that every worker sees. With claimName, the claim is mounted at this path."""
    claim_name: Annotated[str, StringConstraints(pattern=r"^[a-z0-9]([-.a-z0-9]*[a-z0-9])?$", max_length=253)] | None = None
    """The PersistentVolumeClaim to mount; it needs ReadWriteMany when workers sit on several nodes."""


class Workers(Model):
    """The pods of a group."""

    count: Annotated[int, Field(ge=1, le=9999)] = 1


class Resources(Model):
    """What one worker needs. Ranks per worker: one for each GPU, or `processes` where there are none."""

    gpus: Annotated[int, Field(ge=0, le=64)] = 0
    processes: Annotated[int, Field(ge=1, le=64)] = 1
    """Ranks of a worker without GPUs."""
    cpu: Quantity = "1"
    memory: Quantity = "2Gi"

    @property
    def ranks(self) -> int:
        """Ranks that one worker runs."""
        return self.gpus or self.processes


class Recovery(Model):
    """How long to wait for signs of life, and how many failures to forgive."""

    max_failures: Annotated[int, Field(ge=0, le=10_000)] = 10
    """Failures to recover from within the window; disruptions (eviction, preemption, lost nodes) don't count."""
    window_seconds: Annotated[int, Field(ge=1, le=31_536_000)] = 86_400
    hang_seconds: Annotated[int, Field(ge=5, le=604_800)] = 600
    """A stage that reports nothing for so long is taken for hung, and recovered."""
    start_seconds: Annotated[int, Field(ge=5, le=604_800)] = 1_800
    """From pods scheduled to ranks started, images pulled included."""


class Stage(Model):
    """One step of a run: a name, exactly one kind, and what this stage wants otherwise than the run."""

    name: StageName
    prepare: PrepareStage | None = None
    pretrain: PretrainStage | None = None
    evaluate: EvaluateStage | None = None
    export: ExportStage | None = None
    workers: Workers | None = None
    """Instead of the run's."""
    resources: Resources | None = None
    """Instead of the run's, whole."""
    template: Annotated[dict[str, Any], Field(max_length=50)] | None = None
    """Merged over the run's template."""

    rules: ClassVar = (
        rule(
            f"[{', '.join(f'has(self.{kind})' for kind in KINDS)}].filter(given, given).size() == 1",
            lambda it: len(it.given) == 1,
            f"give exactly one of {', '.join(KINDS)}",
        ),
        rule(
            "!has(self.workers) || self.workers.count == 1 || !(has(self.prepare) || has(self.export))",
            lambda it: not it.workers or it.workers.count == 1 or not set(it.given) & set(SINGLE_PROCESS_KINDS),
            "prepare and export run in one worker; set count to 1 or leave workers out",
            "workers",
        ),
    )

    @property
    def given(self) -> list[StageKind]:
        """The kinds that are given; a valid stage has one."""
        return [kind for kind in KINDS if getattr(self, kind) is not None]

    @property
    def kind(self) -> StageKind:
        """The one kind that is given."""
        return self.given[0]

    @property
    def settings(self) -> PrepareStage | PretrainStage | EvaluateStage | ExportStage:
        """The settings of the one kind that is given."""
        settings: PrepareStage | PretrainStage | EvaluateStage | ExportStage = getattr(self, self.kind)
        return settings

    @property
    def inputs(self) -> dict[str, str]:
        """Field → name of the earlier stage whose artifact this stage reads there."""
        return {field: getattr(self.settings, field) for kind, field, _ in REFERENCES if kind == self.kind}


def _reference_rules() -> tuple[Rule, ...]:
    """For each field that names a stage: it names one of the right kind, that comes earlier."""

    def reference(kind: StageKind, field: str, wanted: StageKind) -> Rule:
        def mistakes(spec: "Spec") -> list[Mistake]:
            found = []
            for i, stage in enumerate(spec.stages):
                earlier = [s.name for s in spec.stages[:i] if s.kind == wanted]
                if stage.kind == kind and stage.inputs[field] not in earlier:
                    text = f"{stage.inputs[field]!r} is not an earlier {wanted} stage"
                    remedy = f"use {' or '.join(earlier)}" if earlier else f"put a {wanted} stage before this one"
                    found.append((f"stages[{i}].{kind}.{field}", f"{text}; {remedy}"))
            return found

        names = "self.stages.map(t, t.name)"
        wrong = (
            f"(has(s.{kind}) && !(self.stages.exists(t, t.name == s.{kind}.{field} && has(t.{wanted})) "
            f"&& {names}.indexOf(s.{kind}.{field}) < {names}.indexOf(s.name)))"
        )
        first = f"self.stages.filter(s, {wrong})[0]"
        return Rule(
            cel=f"!self.stages.exists(s, {wrong})",
            message=f"{kind}.{field} must name an earlier {wanted} stage",
            mistakes=mistakes,
            field="stages",
            cel_message=f"'stage ' + {first}.name + ': {kind}.{field}: ' + {first}.{kind}.{field} + "
            f"' is not an earlier {wanted} stage'",
        )

    return tuple(reference(*each) for each in REFERENCES)


def _indivisible(spec: "Spec") -> list[Mistake]:
    found = []
    for i, stage in enumerate(spec.stages):
        if stage.pretrain is None:
            continue
        ranks, micro, batch = spec.ranks(stage), stage.pretrain.micro_batch, stage.pretrain.global_batch
        unit = ranks * micro
        if batch % unit:
            below, above = batch // unit * unit, (batch // unit + 1) * unit
            use = f"{below} or {above}" if below else f"{above}"
            text = f"{batch} is not divisible by {ranks} ranks × micro-batch {micro}; use {use}"
            found.append((f"stages[{i}].pretrain.globalBatch", text))
    return found


class Spec(Model):
    """What to run, where, and how to recover."""

    image: Annotated[str, StringConstraints(min_length=1, max_length=512)] | None = None
    """The trainer image; the operator's own default where it is left out."""
    storage: Storage = Storage()
    workers: Workers = Workers()
    resources: Resources = Resources()
    template: Annotated[dict[str, Any], Field(max_length=50)] | None = None
    """A pod template merged over ours: metadata, and of the spec volumes, tolerations, nodeSelector, env, ….

    Lists of named things (containers, env, volumes) merge by name, as in a strategic merge patch.
    """
    recovery: Recovery = Recovery()
    seed: Annotated[int, Field(ge=0, le=2**31 - 1)] = 0
    """Decides initial weights and the order of data."""
    stages: Annotated[list[Stage], Field(min_length=1, max_length=32)]
    """Run in order; a stage names the outputs of earlier ones as its inputs."""

    rules: ClassVar = (
        rule(
            "self.stages.all(s, self.stages.exists_one(t, t.name == s.name))",
            lambda it: len({s.name for s in it.stages}) == len(it.stages),
            "stage names must be unique; rename one",
            "stages",
        ),
        *_reference_rules(),
        Rule(
            cel="self.stages.all(s, !has(s.pretrain) || s.pretrain.globalBatch % "
            "(s.pretrain.microBatch * (has(s.workers) ? s.workers.count : self.workers.count) * "
            "(has(s.resources) ? (s.resources.gpus > 0 ? s.resources.gpus : s.resources.processes) : "
            "(self.resources.gpus > 0 ? self.resources.gpus : self.resources.processes))) == 0)",
            message="pretrain.globalBatch must be divisible by ranks (workers × gpus or processes) × microBatch; "
            "change one of them",
            mistakes=_indivisible,
            field="stages",
        ),
    )

    def stage_workers(self, stage: Stage) -> int:
        """Pods of the stage's group."""
        if stage.kind in SINGLE_PROCESS_KINDS:
            return 1
        return (stage.workers or self.workers).count

    def stage_resources(self, stage: Stage) -> Resources:
        """What each of the stage's workers needs."""
        return stage.resources or self.resources

    def ranks(self, stage: Stage) -> int:
        """World size of the stage: all ranks of all its workers."""
        if stage.kind in SINGLE_PROCESS_KINDS:
            return 1
        return self.stage_workers(stage) * self.stage_resources(stage).ranks

    def ranks_per_worker(self, stage: Stage) -> int:
        """Ranks in each of the stage's pods."""
        return 1 if stage.kind in SINGLE_PROCESS_KINDS else self.stage_resources(stage).ranks


class Metadata(Model):
    """What we read of an object's metadata."""

    model_config = {"extra": "ignore"}

    name: Annotated[str, StringConstraints(pattern=r"^[a-z]([-a-z0-9]*[a-z0-9])?$", min_length=1, max_length=49)]
    namespace: Annotated[str, StringConstraints(pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$", max_length=63)] = "default"
    uid: str = ""
    generation: int = 0
    resource_version: str = ""
    deletion_timestamp: str | None = None


class TrainingRun(Model):
    """A training run: stages of preparing data, training, evaluating and exporting one model."""

    api_version: Literal["trainyard.dev/v1alpha1"]
    kind: Literal["TrainingRun"]
    metadata: Metadata
    spec: Spec
    status: Status | None = None

    rules: ClassVar = (
        rule(
            f"self.spec.stages.all(s, size(self.metadata.name) + size(s.name) <= {MAX_RUN_AND_STAGE})",
            lambda it: all(len(it.metadata.name) + len(s.name) <= MAX_RUN_AND_STAGE for s in it.spec.stages),
            f"the run's name and each stage's name may have {MAX_RUN_AND_STAGE} characters together, for pods are named "
            "after both; shorten one",
            "metadata.name",
        ),
    )

    @property
    def key(self) -> tuple[str, str]:
        """(namespace, name): what store and queue know a run by."""
        return self.metadata.namespace, self.metadata.name
