"""What a user may say of each kind of stage. The same object, as JSON, is what the trainer is handed."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field, StringConstraints

from .fields import FolderPath, StageName
from .model import Model, rule

StageKind = Literal["prepare", "pretrain", "sft", "collect", "reward", "dpo", "ppo", "grpo", "evaluate", "export"]
KINDS: tuple[StageKind, ...] = (
    "prepare",
    "pretrain",
    "sft",
    "collect",
    "reward",
    "dpo",
    "ppo",
    "grpo",
    "evaluate",
    "export",
)
LANGUAGE_MODEL_KINDS: tuple[StageKind, ...] = ("pretrain", "sft", "dpo", "ppo", "grpo")
"""Those that train a model of language, from which another stage can go on."""
TRAINING_KINDS: tuple[StageKind, ...] = (*LANGUAGE_MODEL_KINDS, "reward")
"""Those that train a model."""
SINGLE_PROCESS_KINDS: tuple[StageKind, ...] = ("prepare", "collect", "export")
"""Stages whose work is one process's, whatever the run's workers are."""


CHAT_FORMATS = ("conversations", "preferences", "unpaired")
"""Of files whose text has roles."""
_CHAT = "['conversations', 'preferences', 'unpaired']"


class Source(Model):
    """Where documents come from: a file or folder, or a text that is always at hand."""

    path: Annotated[str, StringConstraints(min_length=1, max_length=1024)] | None = None
    """A file, or a folder that is read with all its sub-folders. Relative paths start at the storage root."""
    builtin: Literal["python-docs"] | None = None
    """Text without a file. `python-docs`: the language reference in Python's own standard library (0.5 MB)."""
    stage: StageName | None = None
    """A collect stage, whose preferences to read."""
    format: Literal["auto", "text", "markdown", "jsonl", "conversations", "preferences", "unpaired"] = "auto"
    """`auto` goes by the file's ending: .jsonl, .md and .markdown, anything else is text. `conversations` are JSONL for sft, a
    row each: `messages`, or `prompt` and `completion`, or `instruction`, `input` and `output`; `preferences` JSONL for reward
    and dpo, with `prompt`, `chosen` and `rejected`; `unpaired` for dpo's loss KTO, with `prompt`, `completion` and a `label`,
    true or false; docs/stages.md.
    """
    text_field: Annotated[str, StringConstraints(min_length=1, max_length=253)] = "text"
    """The key of a JSONL row that holds the document."""
    target_field: Annotated[str, StringConstraints(min_length=1, max_length=253)] | None = None
    """The key of a JSONL row that holds what is to be said about the document, for sequence-to-sequence."""

    rules: ClassVar = (
        rule(
            "[has(self.path), has(self.builtin), has(self.stage)].filter(given, given).size() == 1",
            lambda it: (it.path, it.builtin, it.stage).count(None) == 2,
            "give exactly one of path, builtin and stage",
        ),
        rule(
            f"!(self.format in {_CHAT}) || !has(self.builtin)",
            lambda it: it.format not in CHAT_FORMATS or it.builtin is None,
            "conversations and preferences come from files; name JSONL files in path",
            "format",
        ),
        rule(
            "!has(self.stage) || self.format == 'preferences'",
            lambda it: it.stage is None or it.format == "preferences",
            "people's preferences come from a collect stage; set format: preferences",
            "stage",
        ),
        rule(
            "!has(self.targetField) || (has(self.path) && self.format in ['auto', 'jsonl'])",
            lambda it: it.target_field is None or (it.path is not None and it.format in ("auto", "jsonl")),
            "only rows of JSONL have keys; name JSONL files in path, or leave targetField out",
            "targetField",
        ),
    )


DEFAULT_VOCAB_SIZE = 4096


class TokenizerSettings(Model):
    """A byte-level BPE tokenizer trained on the training split, or one that there is."""

    vocab_size: Annotated[int, Field(ge=258, le=1_000_000)] | None = None
    """Entries of the one that is trained, the 256 bytes and the end-of-text token included; 4096 if not given."""
    stage: StageName | None = None
    """The prepare stage whose tokenizer to take, so that both can be parts of one mixture."""
    path: FolderPath | None = None
    """A folder with a tokenizer.json to take, such as that of a model to go on from. Relative paths start at the storage
    root.
    """

    rules: ClassVar = (
        rule(
            "[has(self.vocabSize), has(self.stage), has(self.path)].filter(given, given).size() <= 1",
            lambda it: (it.vocab_size, it.stage, it.path).count(None) >= 2,
            "give vocabSize to train a tokenizer, or stage or path to take one, and no two of them",
        ),
    )

    @property
    def trained_size(self) -> int:
        """Entries of the tokenizer that is trained."""
        return self.vocab_size or DEFAULT_VOCAB_SIZE


class PrepareStage(Model):
    """Read documents, split off a held-out part, train a tokenizer, write memory-mapped token shards."""

    sources: Annotated[list[Source], Field(min_length=1, max_length=32)]
    """What to read, in this order."""
    tokenizer: TokenizerSettings = TokenizerSettings()
    held_out_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.05
    """Share of documents held out, chosen by each document's hash: the same document always falls on the same side."""
    shard_tokens: Annotated[int, Field(ge=1024, le=2**31 - 1)] = 64 * 1024 * 1024
    """Tokens in a shard file, at most."""
    chat_template: Annotated[str, StringConstraints(min_length=1, max_length=65_536)] | None = None
    """Jinja that writes a conversation as text. If not given, the tokenizer's own, or a plain one where it has none."""

    rules: ClassVar = (
        rule(
            "self.sources.all(s, s.format == self.sources[0].format || "
            f"!(s.format in {_CHAT} || self.sources[0].format in {_CHAT}))",
            lambda it: len({source.format if source.format in CHAT_FORMATS else "" for source in it.sources}) == 1,
            "conversations, preferences, unpaired ones and other text can't be prepared together; make a prepare stage of each",
            "sources",
        ),
        rule(
            f"!(self.sources[0].format in {_CHAT}) || has(self.tokenizer.stage) || has(self.tokenizer.path)",
            lambda it: not it.conversations or it.tokenizer.stage is not None or it.tokenizer.path is not None,
            "conversations are for a model that there is; name the prepare stage of its data in tokenizer.stage, or its folder "
            "in tokenizer.path",
            "tokenizer",
        ),
        rule(
            f"!has(self.chatTemplate) || self.sources[0].format in {_CHAT}",
            lambda it: it.chat_template is None or it.conversations,
            "only conversations are written by a template; set format: conversations, or leave it out",
            "chatTemplate",
        ),
        rule(
            "self.sources.all(source, has(source.targetField) == has(self.sources[0].targetField))",
            lambda it: len({source.target_field is None for source in it.sources}) == 1,
            "give targetField for all sources or for none: pairs and plain text can't be trained on together",
            "sources",
        ),
    )

    @property
    def conversations(self) -> bool:
        """Whether conversations are prepared, or preferences among them."""
        return self.sources[0].format in CHAT_FORMATS


class SampleSettings(Model):
    """Text that the model, a decoder, writes for the report."""

    prompts: Annotated[
        list[Annotated[str, StringConstraints(min_length=1, max_length=4096)]], Field(min_length=1, max_length=32)
    ]
    """Beginnings for the model to continue; of one that was trained on conversations, what it is told."""
    max_new_tokens: Annotated[int, Field(ge=1, le=4096)] = 64
    """Tokens that each prompt is continued by, at most."""
    temperature: Annotated[float, Field(ge=0, le=10)] = 0.8
    """0 takes the likeliest token each time."""


class EvaluateStage(Model):
    """Measure a model on the held-out split: a decoder's perplexity and bits per byte, beside unigram and zlib baselines; how
    good a reward model's scores are; of other models the loss of what they were trained on.
    """

    model: StageName
    """The stage that trained it."""
    data: StageName
    """The prepare stage whose held-out split to measure on."""
    sequence_length: Annotated[int, Field(ge=8, le=1_048_576)] = 512
    """Context window; not longer than the model was trained for."""
    micro_batch: Annotated[int, Field(ge=1, le=65_536)] = 8
    """Sequences that a rank holds at once."""
    samples: SampleSettings | None = None


class ExportStage(Model):
    """Write a folder that transformers' `from_pretrained` opens: safetensors, configuration, tokenizer."""

    model: StageName
    """The stage that trained it."""
