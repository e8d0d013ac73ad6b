"""The TrainingRun: what a user writes, whole, and the rules that hold across its parts."""

import re
from typing import Annotated, Any, ClassVar, Literal

from pydantic import ConfigDict, Field, StringConstraints

from .collect_settings import CollectStage
from .fields import StageName
from .in_flight import fixed_rules
from .model import Model, rule
from .names import MAX_RUN_AND_STAGE
from .quantity import Quantity, whole
from .recovery import Recovery
from .rollout_stages import GrpoStage, PpoStage
from .rules import MAX_STAGES, failure_rules_name_stages, indivisible_rules, learner_rules, reference_rules, references
from .stages import (
    KINDS,
    SINGLE_PROCESS_KINDS,
    EvaluateStage,
    ExportStage,
    PrepareStage,
    StageKind,
)
from .status import Status
from .training_stages import DpoStage, PretrainStage, RewardStage, SftStage, TrainingStage

ObjectName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]([-.a-z0-9]*[a-z0-9])?$", max_length=253)]


class Storage(Model):
    """Where artifacts and checkpoints go."""

    uri: Annotated[
        str,
        StringConstraints(
            pattern=r"^(file:///.+|s3://[a-z0-9][-.a-z0-9]{1,61}[a-z0-9](/[^/?#]+)*/?)$",
            max_length=1024,
        ),
    ] = "file:///storage"
    """A folder that every worker sees, file:///…, or a place in an object store, s3://bucket/prefix."""
    claim_name: ObjectName | None = None
    """The PersistentVolumeClaim to mount at the folder; it needs ReadWriteMany when workers sit on several nodes."""
    secret_name: ObjectName | None = None
    """A Secret in the run's namespace; each of its keys becomes a variable in the pods' environment.

    AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, and where needed AWS_SESSION_TOKEN, AWS_REGION and AWS_ENDPOINT_URL.
    `trainyard run` uses the environment that it is started in instead. Not needed where nodes or service accounts have a role.
    """

    rules: ClassVar = (
        rule(
            "!has(self.claimName) || self.uri.startsWith('file://')",
            lambda it: it.claim_name is None or it.uri.startswith("file://"),
            "an object store has no claim to mount; leave claimName out, or give a file:/// uri",
            "claimName",
        ),
        rule(
            "!has(self.secretName) || self.uri.startsWith('s3://')",
            lambda it: it.secret_name is None or it.uri.startswith("s3://"),
            "credentials are for an object store; leave secretName out, or give uri: s3://bucket/prefix",
            "secretName",
        ),
    )


class Workers(Model):
    """The pods of a group."""

    count: Annotated[int, Field(ge=1, le=9999)] = 1
    """Pods."""


class Resources(Model):
    """What one worker needs. Ranks per worker: one for each GPU, or `processes` where there are none."""

    gpus: Annotated[int, Field(ge=0, le=64)] = 0
    """GPUs of a worker, and so its ranks."""
    processes: Annotated[int, Field(ge=1, le=64)] = 1
    """Ranks of a worker without GPUs."""
    cpu: Quantity = "1"
    """CPU time of a worker: cores."""
    memory: Quantity = "2Gi"
    """Memory of a worker."""

    @property
    def ranks(self) -> int:
        """Ranks that one worker runs."""
        return self.gpus or self.processes


_ALONE = " || ".join(f"has(self.{kind})" for kind in SINGLE_PROCESS_KINDS)


class Stage(Model):
    """One step of a run: a name, exactly one kind, and what this stage wants otherwise than the run."""

    name: StageName
    """Part of the names of pods and folders; later stages refer to it."""
    prepare: PrepareStage | None = None
    pretrain: PretrainStage | None = None
    sft: SftStage | None = None
    collect: CollectStage | None = None
    reward: RewardStage | None = None
    dpo: DpoStage | None = None
    ppo: PpoStage | None = None
    grpo: GrpoStage | None = None
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
            f"!has(self.workers) || self.workers.count == 1 || !({_ALONE})",
            lambda it: not it.workers or it.workers.count == 1 or not set(it.given) & set(SINGLE_PROCESS_KINDS),
            f"{', '.join(SINGLE_PROCESS_KINDS)} run in one worker; set count to 1 or leave workers out",
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
    def settings(self) -> PrepareStage | TrainingStage | CollectStage | EvaluateStage | ExportStage:
        """The settings of the one kind that is given."""
        settings: PrepareStage | TrainingStage | CollectStage | EvaluateStage | ExportStage = getattr(self, self.kind)
        return settings

    @property
    def training(self) -> TrainingStage | None:
        """The settings of a stage that trains; None of all others."""
        return self.settings if isinstance(self.settings, TrainingStage) else None

    @property
    def inputs(self) -> dict[str, str]:
        """Field → name of the earlier stage whose artifact this stage reads there."""
        return references(self.kind, self.settings)


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
    suspend: bool = False
    """Stop the pods, which save first, and make no others until this is false again; then the run goes on from there."""
    active_deadline_seconds: Annotated[int, Field(ge=1, le=315_360_000)] | None = None
    """How long groups of pods may run, all in all; then they save, and the run fails. Neither waiting nor suspension counts."""
    ttl_seconds_after_finished: Annotated[int, Field(ge=0, le=315_360_000)] | None = None
    """So long after its end the run is deleted, with its pods and their logs; artifacts stay."""
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
        *reference_rules(),
        *learner_rules(),
        *indivisible_rules(),
        failure_rules_name_stages(),
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
        """All ranks of all the stage's workers."""
        if stage.kind in SINGLE_PROCESS_KINDS:
            return 1
        return self.stage_workers(stage) * self.stage_resources(stage).ranks

    def learners(self, stage: Stage) -> int:
        """Those of the ranks that learn, where others draw."""
        training = stage.training
        return self.ranks(stage) - (training.drawing_workers if training else 0) * self.ranks_per_worker(stage)

    def ranks_per_worker(self, stage: Stage) -> int:
        """Ranks in each of the stage's pods."""
        return 1 if stage.kind in SINGLE_PROCESS_KINDS else self.stage_resources(stage).ranks

    def memory_budget(self, stage: Stage) -> int:
        """Bytes that snapshots may take of each worker's memory."""
        given = stage.training.checkpoint.memory_budget if stage.training else None
        return whole(self.stage_resources(stage).memory) // 4 if given is None else whole(given)


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
    annotations: dict[str, str] = {}


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
            "a run's name begins with a letter and holds lower-case letters, digits and '-', for its pods are named after "
            "it; rename the run",
            "metadata.name",
        ),
        rule(
            f"self.spec.stages.all(s, size(self.metadata.name) + size(s.name) <= {MAX_RUN_AND_STAGE})",
            lambda it: all(len(it.metadata.name) + len(s.name) <= MAX_RUN_AND_STAGE for s in it.spec.stages),
            f"the run's name and each stage's name may have {MAX_RUN_AND_STAGE} characters together, for pods are "
            "named after both; shorten one",
            "metadata.name",
        ),
        *fixed_rules(Spec),
    )

    @property
    def key(self) -> tuple[str, str]:
        """(namespace, name): what store and queue know a run by."""
        return self.metadata.namespace, self.metadata.name
