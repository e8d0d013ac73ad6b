"""What a user may say of a stage that trains: model, data, batch, optimizer, checkpoints. The same for all that train."""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, StringConstraints

from .checkpoint_settings import DEFAULT_SAVE_STEPS, CheckpointSettings
from .fields import FolderPath, Settings, StageName
from .model import Mistake, Model, Rule, rule
from .numerics import NumericsSettings
from .objectives import OBJECTIVE_RULES, ModelType, Objective, TrainedOn
from .optimizer_settings import LossSettings, OptimizerSettings, ScheduleSettings
from .preference_settings import PreferenceSettings
from .telemetry_settings import ProfileSettings, TelemetrySettings

DEEPSPEED_OWNED = {
    "train_batch_size": "integer",
    "train_micro_batch_size_per_gpu": "integer",
    "gradient_accumulation_steps": "integer",
    "gradient_clipping": "number",
    "optimizer": "object",
    "scheduler": "object",
}
"""The keys of a DeepSpeed configuration that the stage's own fields decide, each with its JSON type."""

MODEL_OWNED = {"vocab_size": "integer", "model_type": "string"}
"""The keys of a transformers configuration that the stage's own fields decide, each with its JSON type."""


def _owned(section: str, owned: dict[str, str], instead: str) -> tuple[Rule, ...]:
    """Rules that refuse, by name, each key of `section` that other fields decide."""

    def refused(key: str) -> Rule:
        return rule(
            f"!has(self.{section}) || !has(self.{section}.{key})",
            lambda it: (getattr(it, section) or {}).get(key) is None,
            f"{section}.{key} is decided by Trainyard; leave it out: {instead}",
            section,
        )

    return tuple(refused(key) for key in owned)


def _declared(owned: dict[str, str]) -> dict[str, Any]:
    """JSON Schema of the owned keys of a free-form section: CEL sees no key of it that the schema doesn't declare."""
    return {
        "properties": {
            key: {"type": kind, "description": "Decided by Trainyard; not to be given."}
            | ({"additionalProperties": True} if kind == "object" else {})
            for key, kind in owned.items()
        }
    }


class LoraSettings(Model):
    """Low-rank adapters (Hu et al. 2021) in the place of full training: all that the model was stays as it is."""

    rank: Annotated[int, Field(ge=1, le=4096)] = 16
    """Of the two matrices whose product is added to each weight."""
    alpha: Annotated[float, Field(gt=0, le=100_000)] = 32.0
    """The product is scaled by alpha / rank."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Of what goes into the adapters."""
    targets: (
        Annotated[
            list[Annotated[str, StringConstraints(min_length=1, max_length=253)]], Field(min_length=1, max_length=64)
        ]
        | None
    ) = None
    """Layers to adapt, by the end of their names (`q_proj`); all linear layers but the output head if not given."""


class ModelSettings(Model):
    """A Transformer: from a transformers configuration, or with its weights from an earlier stage or a folder."""

    type: ModelType | None = None
    """The model type, as transformers names it."""
    config: Settings | None = Field(None, json_schema_extra=_declared(MODEL_OWNED))
    """Fields of the type's transformers configuration (hidden_size, num_hidden_layers, …; for gpt2 n_embd, …)."""
    stage: StageName | None = None
    """Instead of type and config: an earlier stage that trained a model, whose last weights to begin with, at step 0."""
    path: FolderPath | None = None
    """Instead of type and config: a folder as `save_pretrained` writes it, whose weights to begin with. Its tokenizer.json
    must be the data's. Relative paths start at the storage root.
    """
    lora: LoraSettings | None = None
    """Train adapters of a stage's model instead of the model. They are merged when the stage that trained them is used."""

    rules: ClassVar = (
        rule(
            "[has(self.type), has(self.stage), has(self.path)].filter(given, given).size() == 1",
            lambda it: (it.type, it.stage, it.path).count(None) == 2,
            "give exactly one of type, stage and path",
        ),
        rule(
            "!has(self.config) || has(self.type)",
            lambda it: it.config is None or it.type is not None,
            "the model of a stage or a folder has its configuration; leave config out",
            "config",
        ),
        rule(
            "!has(self.lora) || has(self.stage)",
            lambda it: it.lora is None or it.stage is not None,
            "adapts a trained model; name one in stage",
            "lora",
        ),
        *_owned("config", MODEL_OWNED, "it follows from the tokenizer and from model.type"),
    )


class ValidationSet(Model):
    """A held-out split beside those of what is trained on."""

    data: StageName
    """The prepare stage whose held-out split to measure on; metrics have it as `held_out_loss_<stage>`."""


class ValidationSettings(Model):
    """Held-out loss while training."""

    every_steps: Annotated[int, Field(ge=1, le=10_000_000)] = 100
    """Steps from one measurement to the next."""
    sequences: Annotated[int, Field(ge=1, le=1_000_000)] = 64
    """Held-out sequences to measure on, at most, of each part of a mixture and of each set; always the same ones."""
    sets: Annotated[list[ValidationSet], Field(max_length=16)] = []
    """Prepare stages, with the tokens that are trained on, whose held-out splits to measure on as well."""


def _never_compared(it: "TrainingStage") -> list[Mistake]:
    saved, validated = it.checkpoint.steps_interval, it.validation.every_steps
    if not it.checkpoint.keep_best:
        return []
    if not saved:
        text = "compares held-out losses, but everySeconds alone decides when to save; give everySteps as well"
    elif validated % saved and saved % validated:
        text = (
            f"needs the held-out loss of what is saved, but validation.everySteps {validated} and everySteps {saved} hardly "
            f"ever fall on the same step; set validation.everySteps to {saved}"
        )
    else:
        return []
    return [("checkpoint.keepBest", text)]


_SAVED, _VALIDATED = "self.checkpoint.everySteps", "self.validation.everySteps"


class MixturePart(Model):
    """One of several corpora to train on."""

    data: StageName
    """The prepare stage whose tokens to train on."""
    weight: Annotated[int, Field(ge=1, le=10_000)]
    """Sequences of this part for every sum of all weights: 3 and 1 make three quarters and one quarter."""


class TrainingStage(Model):
    """What all stages have that train a model."""

    kind: ClassVar[str]
    """As the stage's own field is called."""
    data: StageName | None = None
    """The prepare stage whose tokens to train on."""
    mixture: Annotated[list[MixturePart], Field(min_length=1, max_length=32)] | None = None
    """Instead of `data`: several prepare stages, with the same tokenizer, each with its share of the sequences."""
    model: ModelSettings
    steps: Annotated[int, Field(ge=1, le=100_000_000)]
    """Optimizer steps."""
    sequence_length: Annotated[int, Field(ge=8, le=1_048_576)] = 512
    """Tokens of a sequence."""
    global_batch: Annotated[int, Field(ge=1, le=1_048_576)] = 32
    """Sequences in an optimizer step, over all ranks."""
    micro_batch: Annotated[int, Field(ge=1, le=65_536)] = 4
    """Sequences that a rank holds at once; accumulation follows from this and globalBatch."""
    sequence_parallel: Annotated[int, Field(ge=1, le=1024)] = 1
    """So many ranks, one after the other, share each sequence: DeepSpeed's Ulysses (Jacobs et al. 2023), for sequences that
    are too long for one. Each has its part of the positions, and in attention all positions of its part of the heads.
    """
    tensor_parallel: Annotated[int, Field(ge=1, le=1024)] = 1
    """So many ranks, one after the other, share each layer: DeepSpeed's AutoTP, for layers that are too large for one. They
    work on the same sequences.
    """
    loss: LossSettings = LossSettings()
    optimizer: OptimizerSettings = OptimizerSettings()
    schedule: ScheduleSettings = ScheduleSettings()
    validation: ValidationSettings = ValidationSettings()
    checkpoint: CheckpointSettings = CheckpointSettings()
    numerics: NumericsSettings = NumericsSettings()
    telemetry: TelemetrySettings = TelemetrySettings()
    profile: ProfileSettings | None = None
    """Write a trace and a table of operators: docs/stages.md."""
    activation_checkpointing: bool = False
    """Keep only each layer's input for backward, and run the layer again: less memory for a third more arithmetic."""
    compile: bool = False
    """Have torch.compile make kernels for the model. The first steps take minutes, which is not taken for a hang."""
    kernels: Literal["Torch", "Liger"] = "Torch"
    """`Liger` takes norms, rotary positions and activations from Liger's Triton kernels, on GPUs alone."""
    deepspeed: Settings = Field({}, json_schema_extra=_declared(DEEPSPEED_OWNED))
    """A DeepSpeed configuration: ZeRO stage, bf16, offload, … as DeepSpeed documents it."""

    rules: ClassVar = (
        rule(
            "has(self.data) != has(self.mixture)",
            lambda it: (it.data is None) != (it.mixture is None),
            "give exactly one of data and mixture",
        ),
        rule(
            "!has(self.mixture) || self.mixture.all(p, self.mixture.exists_one(q, q.data == p.data))",
            lambda it: len({part.data for part in it.mixture or ()}) == len(it.mixture or ()),
            "a prepare stage can be one part of a mixture only; add up the weights",
            "mixture",
        ),
        rule(
            "!has(self.sequenceParallel) || self.sequenceParallel == 1 "
            "|| !has(self.tensorParallel) || self.tensorParallel == 1",
            lambda it: 1 in (it.sequence_parallel, it.tensor_parallel),
            "ranks share sequences or layers; leave sequenceParallel out",
            "tensorParallel",
        ),
        rule(
            "!has(self.sequenceParallel) || self.sequenceLength % self.sequenceParallel == 0",
            lambda it: it.sequence_length % it.sequence_parallel == 0,
            "does not divide sequenceLength; change either",
            "sequenceParallel",
        ),
        rule(
            "!has(self.profile) || self.profile.steps[1] <= self.steps",
            lambda it: it.profile is None or it.profile.steps[1] <= it.steps,
            "there are fewer steps; profile earlier ones",
            "profile.steps",
        ),
        *_owned("deepspeed", DEEPSPEED_OWNED, "use globalBatch, microBatch, optimizer and schedule"),
        Rule(
            cel=f"!has(self.checkpoint.keepBest) || (has({_SAVED}) ? "
            f"{_VALIDATED} % {_SAVED} == 0 || {_SAVED} % {_VALIDATED} == 0 : !has(self.checkpoint.everySeconds) && "
            f"({_VALIDATED} % {DEFAULT_SAVE_STEPS} == 0 || {DEFAULT_SAVE_STEPS} % {_VALIDATED} == 0))",
            message="keepBest needs the held-out loss of what is saved: make validation.everySteps a multiple of "
            "checkpoint.everySteps, or the reverse",
            mistakes=_never_compared,
            field="checkpoint.keepBest",
            cel_message=f"has({_SAVED}) ? 'needs the held-out loss of what is saved, but validation.everySteps %d and "
            "everySteps %d hardly ever fall on the same step; set validation.everySteps to %d'.format("
            f"[{_VALIDATED}, {_SAVED}, {_SAVED}]) : "
            "'compares held-out losses at steps that are saved; give everySteps'",
        ),
    )

    @property
    def rows(self) -> int:
        """Sequences that `global_batch` and `micro_batch` count as one."""
        return 1

    @property
    def tokens_a_step(self) -> int:
        """Over all ranks, at most."""
        return self.global_batch * self.rows * self.sequence_length

    @property
    def drawing_workers(self) -> int:
        """Workers that draw and don't learn."""
        return 0

    @property
    def mini_batches(self) -> int:
        """Parts of a global batch that an update is made with each."""
        return 1

    @property
    def updates(self) -> int:
        """Of the weights, in a step."""
        return 1

    @property
    def sharers(self) -> int:
        """Ranks that work on the same sequences."""
        return self.sequence_parallel * self.tensor_parallel

    @property
    def parts(self) -> dict[str, MixturePart]:
        """Field → the part that it names, in order; `data` is a mixture of one part."""
        if self.mixture is None:
            assert self.data is not None
            return {"data": MixturePart(data=self.data, weight=1)}
        return {f"mixture[{number}].data": part for number, part in enumerate(self.mixture)}

    @property
    def validation_sets(self) -> dict[str, str]:
        """Field → the prepare stage that it names, of all sets."""
        return {f"validation.sets[{number}].data": each.data for number, each in enumerate(self.validation.sets)}


class PretrainStage(TrainingStage):
    """Train a decoder, an encoder or an encoder-decoder, from scratch or from weights that there are."""

    kind: ClassVar[str] = "pretrain"
    objective: Objective | None = None
    """What to train on. If not given: decoders on the next token, bert and modernbert on masked tokens, t5 on corrupted
    spans.
    """

    rules: ClassVar = (*TrainingStage.rules, *OBJECTIVE_RULES)


class SftStage(TrainingStage):
    """Fine-tune a decoder on conversations: it learns what the assistant says in them, and nothing of what it is told."""

    kind: ClassVar[str] = "sft"
    objective: ClassVar[TrainedOn] = "Responses"
    embedding_noise: Annotated[float, Field(ge=0, le=1000)] = 0.0
    """NEFTune's alpha (Jain et al. 2023): uniform noise of ±alpha / √(tokens × width) on embeddings while training. They use
    5 to 15; 0 is none.
    """

    rules: ClassVar = (
        *TrainingStage.rules,
        rule(
            "!has(self.model.type)",
            lambda it: it.model.type is None,
            "there is nothing to fine-tune in a model from scratch; name an earlier stage in model.stage, or a folder in "
            "model.path",
            "model.type",
        ),
    )


OF_PAIRS = rule(
    "self.loss.zLoss == 0.0 && self.loss.labelSmoothing == 0.0",
    lambda it: it.loss.z_loss == 0 and it.loss.label_smoothing == 0,
    "is that of tokens, and here it is of pairs; leave it out (dpo has preferences.labelSmoothing)",
    "loss",
)


WHOLE_SEQUENCES = rule(
    "(!has(self.sequenceParallel) || self.sequenceParallel == 1) && (!has(self.tensorParallel) || self.tensorParallel == 1)",
    lambda it: it.sequence_parallel == it.tensor_parallel == 1,
    "responses are compared by one rank; leave it and tensorParallel out",
    "sequenceParallel",
)


class RewardStage(TrainingStage):
    """Score responses so that what was chosen has more than what was rejected (Bradley and Terry 1952): a decoder with a head
    in the place of its words.
    """

    kind: ClassVar[str] = "reward"
    objective: ClassVar[TrainedOn] = "Rewards"
    heads: Annotated[int, Field(ge=1, le=16)] = 1
    """Several are an ensemble: each scores by itself, the reward is their mean, and how far they differ is reported."""
    centring: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Pulls the sum of a pair's scores to 0 (Eisenstein et al. 2023 use 0.01); their mean is taken from them in any case."""

    rules: ClassVar = (*SftStage.rules, OF_PAIRS, WHOLE_SEQUENCES)


class DpoStage(TrainingStage):
    """Prefer what was chosen to what was rejected, without going far from the model that it begins with."""

    kind: ClassVar[str] = "dpo"
    preferences: PreferenceSettings = PreferenceSettings()

    rules: ClassVar = (*SftStage.rules, OF_PAIRS, WHOLE_SEQUENCES)

    @property
    def objective(self) -> TrainedOn:
        """What it trains on: pairs, or single responses."""
        return "Unpaired" if self.preferences.loss == "KTO" else "Preferences"
