"""The TrainingRun: what a user writes, whole, and the rules that hold across its parts."""

import re
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, ConfigDict, Field, StringConstraints, WithJsonSchema

from .model import Mistake, Model, Rule, rule, transition
from .names import MAX_RUN_AND_STAGE
from .stages import EvaluateStage, ExportStage, PrepareStage, PretrainStage, StageName
from .status import Status

QUANTITY = r"^[0-9]+(\.[0-9]+)?(m|k|M|G|T|Ki|Mi|Gi|Ti)?$"
Quantity = Annotated[
    str,
    StringConstraints(pattern=QUANTITY, max_length=20),
    BeforeValidator(lambda given: str(given) if type(given) is int else given),
    WithJsonSchema({"x-kubernetes-int-or-string": True, "pattern": QUANTITY, "maxLength": 20, "minimum": 0}),
]
"""An amount as in pods: "500m", "2", 2, "16Gi"."""

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
    claim_name: (
        Annotated[str, StringConstraints(pattern=r"^[a-z0-9]([-.a-z0-9]*[a-z0-9])?$", max_length=253)] | None
    ) = None
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

    max_failures: Annotated[int, Field(ge=0, le=100)] = 10
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


MAX_STAGES = 32
_POSITIONS = f"[{', '.join(map(str, range(MAX_STAGES)))}]"
"""Every index that `stages` may have: CEL's macros tell items, not indices."""


def _reference_rules() -> tuple[Rule, ...]:
    """For each field that names a stage: it names one of the right kind, that comes earlier."""

    def reference(kind: StageKind, field: str, wanted: StageKind) -> Rule:
        def mistakes(spec: "Spec") -> list[Mistake]:
            found = []
            for i, stage in enumerate(spec.stages):
                earlier = [s.name for s in spec.stages[:i] if s.kind == wanted]
                if stage.kind == kind and stage.inputs[field] not in earlier:
                    text = f"{stage.inputs[field]} is not an earlier {wanted} stage"
                    remedy = (
                        f"use one of [{', '.join(earlier)}]" if earlier else f"put a {wanted} stage before this one"
                    )
                    found.append((f"stages[{i}].{kind}.{field}", f"{text}; {remedy}"))
            return found

        stage, named = "self.stages[i]", f"self.stages[i].{kind}.{field}"
        earlier = f"{_POSITIONS}.filter(j, j < i && has(self.stages[j].{wanted})).map(j, self.stages[j].name)"
        wrong = (
            f"(i < self.stages.size() && has({stage}.{kind}) && !{_POSITIONS}.exists(j, "
            f"j < i && has(self.stages[j].{wanted}) && self.stages[j].name == {named}))"
        )
        return Rule(
            cel=f"!{_POSITIONS}.exists(i, {wrong})",
            message=f"{kind}.{field} must name an earlier {wanted} stage",
            mistakes=mistakes,
            field="stages",
            cel_message=f"{_POSITIONS}.filter(i, {wrong}).map(i, 'stages[%d].{kind}.{field}: "
            f"%s is not an earlier {wanted} stage; %s'.format([i, {named}, {earlier}.size() > 0 ? "
            f"'use one of %s'.format([{earlier}]) : 'put a {wanted} stage before this one']))[0]",
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
            text = f"{batch} is not divisible by {ranks} ranks × microBatch {micro}; use {use}"
            found.append((f"stages[{i}].pretrain.globalBatch", text))
    return found


def _indivisible_rule() -> Rule:
    """globalBatch is a multiple of world size × microBatch."""

    def own(section: str, field: str) -> str:
        return f"(has(self.stages[i].{section}) ? self.stages[i].{section}.{field} : self.{section}.{field})"

    pretrain = "self.stages[i].pretrain"
    batch, micro = f"{pretrain}.globalBatch", f"{pretrain}.microBatch"
    ranks = (
        f"({own('workers', 'count')} * "
        f"({own('resources', 'gpus')} > 0 ? {own('resources', 'gpus')} : {own('resources', 'processes')}))"
    )
    unit = f"({ranks} * {micro})"
    wrong = f"(i < self.stages.size() && has({pretrain}) && {batch} % {unit} != 0)"
    below, above = f"{batch} / {unit} * {unit}", f"({batch} / {unit} + 1) * {unit}"
    return Rule(
        cel=f"!{_POSITIONS}.exists(i, {wrong})",
        message="pretrain.globalBatch must be divisible by ranks (workers × gpus or processes) × microBatch",
        mistakes=_indivisible,
        field="stages",
        cel_message=f"{_POSITIONS}.filter(i, {wrong}).map(i, 'stages[%d].pretrain.globalBatch: "
        f"%d is not divisible by %d ranks × microBatch %d; use %s'.format([i, {batch}, {ranks}, {micro}, "
        f"{below} > 0 ? '%d or %d'.format([{below}, {above}]) : '%d'.format([{above}])]))[0]",
    )


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
    stages: Annotated[list[Stage], Field(min_length=1, max_length=MAX_STAGES)]
    """Run in order; a stage names the outputs of earlier ones as its inputs."""

    rules: ClassVar = (
        rule(
            "self.stages.all(s, self.stages.exists_one(t, t.name == s.name))",
            lambda it: len({s.name for s in it.stages}) == len(it.stages),
            "stage names must be unique; rename one",
            "stages",
        ),
        *_reference_rules(),
        _indivisible_rule(),
        transition("self == oldSelf", "the spec of a run can't change; delete the run and apply a new one"),
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


RUN_NAME = "^[a-z]([-a-z0-9]*[a-z0-9])?$"


class Metadata(Model):
    """What we read of an object's metadata."""

    model_config = ConfigDict(extra="ignore")

    name: Annotated[str, StringConstraints(min_length=1, max_length=253)]
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
            f"self.metadata.name.matches('{RUN_NAME}')",
            lambda it: re.fullmatch(RUN_NAME, it.metadata.name) is not None,
            "a run's name begins with a letter and has lower-case letters, digits and '-' alone, for its pods are named "
            "after it; rename it",
            "metadata.name",
        ),
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
