"""From files to training data: a held-out split, a tokenizer (trained here, or one that there is), token shards.

    tokenizer/     tokenizer.json, tokenizer_config.json: what transformers' AutoTokenizer opens
    train/         shards, data/shards.py; targets/ within, where there are pairs
    held-out/      the same
    artifact.json  details {vocab_size, eot_id, dtype, splits: {train, heldOut: {tokens, bytes, documents}}, counts}

One process; tokenising uses all cores that the pod may use. Everything is made in a folder beside its place and moved
there when it is whole; the same files give the same bytes. There is no checkpoint: who was stopped starts anew.
"""

import math
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

from tokenizers import Tokenizer
from trainyard_api.protocol import Artifact
from trainyard_api.stages import PrepareStage, Source
from trainyard_api.status import Progress
from trainyard_api.storage import sync_folder

from ..artifacts import finished_artifact, own_artifact, read_artifact, write_artifact
from ..data.corpus import FOLDERS, Kept, Split, Survey, keep, sample
from ..data.fetched import fetch_folder, fetch_sources, read_fetched
from ..data.shards import TARGETS, ShardWriter, token_dtype
from ..data.special_tokens import special_tokens
from ..data.tokenizer import FILES, copy_tokenizer, load_tokenizer, save_tokenizer, train_tokenizer, write_template
from ..errors import PermanentError, RetryableError
from ..group import Group
from ..scratch import Note

_BATCH_BYTES = 4 * 2**20
"""Text that is tokenised at once: enough for all cores, while encodings take some 100 bytes a token, 100 MB in all."""
_REPORT_SECONDS = 1.0


def prepare(group: Group) -> Artifact:
    """Read the sources three times: to count and split, to train the tokenizer (unless it is given), to write tokens."""
    settings = group.settings(PrepareStage)
    progress = _Progress(group)
    sources = fetch_sources(_of_stages(settings.sources, group), group.job.storage_uri, progress.note)

    def read(survey: Survey) -> Iterator[Kept]:
        """Every document that is used, in the order of the sources, counted in `survey`."""
        return keep(read_fetched(sources, group.job.storage_uri), settings.held_out_fraction, survey)

    survey = Survey()
    for _ in read(survey):
        progress.note(f"reading: {survey.files} files, {survey.documents} documents, {_megabytes(survey)}")
    refuse_unusable(survey, settings.held_out_fraction)
    if done := finished_artifact(group):
        refuse_changed_sources(group, survey)
        return done

    folder = _empty_folder(group)
    if given := _given_tokenizer(settings, group, progress.note):
        copy_tokenizer(given, folder / "tokenizer")
        if settings.conversations:
            write_template(settings.chat_template, folder / "tokenizer")
    else:
        texts = sample(read(Survey()), survey)
        trained = train_tokenizer(progress.noting("training the tokenizer", texts), settings.tokenizer.trained_size)
        save_tokenizer(trained, folder / "tokenizer")
    tokenizer, special = load_tokenizer(folder / "tokenizer"), special_tokens(folder / "tokenizer")
    written = Survey()

    def tell(documents: int, tokens: int) -> None:
        progress.note(f"tokenising: {tokens:,} tokens", documents, survey.kept.total())

    if settings.conversations:
        # It imports transformers, which other text does not need.
        from ..data.write_conversations import write_conversations

        splits = write_conversations(read(written), settings.sources[0].format, folder, settings.shard_tokens, tell)
    else:
        splits = write_splits(
            read(written),
            tokenizer,
            special.end,
            folder,
            settings.shard_tokens,
            pairs=settings.sources[0].target_field is not None,
            tell=tell,
        )
    if written != survey:
        raise RetryableError("prepare.sources: files changed while they were read; nothing may write there meanwhile")
    _publish(folder, group.output)

    metrics = _metrics(survey, splits, tokenizer)
    group.report(metrics=metrics)
    details = {
        "vocab_size": tokenizer.get_vocab_size(),
        "eot_id": special.end,
        "dtype": token_dtype(tokenizer.get_vocab_size()).name,
        "splits": {
            split: {"tokens": writer.num_tokens, "bytes": writer.num_bytes, "documents": writer.num_documents}
            for split, writer in splits.items()
        },
        "counts": survey.counts(),
        "fingerprint": f"{survey.fingerprint:032x}",
    }
    return write_artifact(group, metrics=metrics, files=["tokenizer", *FOLDERS.values()], details=details)


def refuse_unusable(survey: Survey, fraction: float) -> None:
    """Both sides of the split must have documents."""
    dropped = ", ".join(f"{count} {reason}" for reason, count in sorted(survey.dropped.items()))
    found = f"{survey.files} files with {survey.documents} documents ({dropped or 'none'} dropped)"
    number = survey.kept.total()
    if not number:
        raise PermanentError(f"prepare.sources: no text in {found}; name files that hold text")
    if number == 1:
        raise PermanentError(
            f"prepare.heldOutFraction: one document can't be on both sides, and {found} leave no more; cut the text "
            "into several files, or make it JSONL with a row for each part"
        )
    if not survey.kept["heldOut"]:
        enough = math.ceil(survey.lowest * 1e4 + 1e-6) / 1e4
        raise PermanentError(
            f"prepare.heldOutFraction: {fraction} holds out none of the {number} documents; use at least {enough:.4f}, "
            "or give more documents"
        )
    if not survey.kept["train"]:
        enough = math.floor(survey.highest * 1e4) / 1e4
        raise PermanentError(
            f"prepare.heldOutFraction: {fraction} leaves none of the {number} documents to train on; use at most "
            f"{enough:.4f}, or give more documents"
        )


def refuse_changed_sources(group: Group, survey: Survey) -> None:
    """An earlier run of this name made the artifact; it is this run's too if the sources still hold the same documents."""
    there = own_artifact(group)
    if there and there["details"]["fingerprint"] != f"{survey.fingerprint:032x}":
        raise PermanentError(
            f"prepare.sources: the documents have changed since an earlier run {there['run']} prepared {group.storage.uri}, "
            "and artifacts never change; give the run or the stage another name, or delete that folder"
        )


def write_splits(
    documents: Iterator[Kept],
    tokenizer: Tokenizer,
    end: int,
    folder: Path,
    shard_tokens: int,
    pairs: bool,
    tell: Callable[[int, int], None],
) -> dict[Split, ShardWriter]:
    """Tokenise the documents, an end of text after each, into the shards of their split; with pairs also their targets.

    `tell(documents, tokens)` hears, batch by batch, how many are done.
    """
    dtype = token_dtype(tokenizer.get_vocab_size())

    def tokens(texts: list[str]) -> Iterator[list[int]]:
        for encoding in tokenizer.encode_batch_fast(texts, add_special_tokens=False):
            yield [*encoding.ids, end]

    with ExitStack() as open_files:

        def writer(split: Split, *below: str) -> ShardWriter:
            return open_files.enter_context(ShardWriter(folder.joinpath(FOLDERS[split], *below), dtype, shard_tokens))

        splits = {split: writer(split) for split in FOLDERS}
        targets = {split: writer(split, TARGETS) for split in FOLDERS} if pairs else {}
        for batch in _batches(documents):
            for document, ids in zip(batch, tokens([each.text for each in batch]), strict=True):
                splits[document.split].write(ids, document.num_bytes)
            if pairs:
                for document, ids in zip(batch, tokens([each.target or "" for each in batch]), strict=True):
                    targets[document.split].write(ids, len((document.target or "").encode()))
            tell(sum(it.num_documents for it in splits.values()), sum(it.num_tokens for it in splits.values()))
    return splits


def _of_stages(sources: list[Source], group: Group) -> list[Source]:
    """The sources, with the file of each that is what people have judged in an earlier stage."""

    def file(number: int) -> str:
        folder = group.inputs[f"sources[{number}].stage"]
        return str(folder / read_artifact(folder, "collect")["details"]["preferences"])

    return [
        each.model_copy(update={"path": file(number)}) if each.stage else each for number, each in enumerate(sources)
    ]


def _given_tokenizer(settings: PrepareStage, group: Group, note: Note) -> Path | None:
    """The folder of the tokenizer to take, if one is named."""
    if settings.tokenizer.stage:
        return group.inputs["tokenizer.stage"] / "tokenizer"
    if settings.tokenizer.path is None:
        return None
    field, once = "prepare.tokenizer.path", f"{group.job.run_uid} {group.job.stage} {group.attempt}"
    folder = fetch_folder(settings.tokenizer.path, group.job.storage_uri, field, once, note)
    if missing := [name for name in FILES[:2] if not (folder / name).exists()]:
        raise PermanentError(
            f"{field}: {folder} has no {' and no '.join(missing)}; write them with AutoTokenizer.from_pretrained(…)"
            ".save_pretrained(…), or name another folder"
        )
    try:
        special_tokens(folder)
    except KeyError:
        raise PermanentError(
            f"{field}: {folder}/tokenizer_config.json names neither eos_token nor sep_token, so documents would have no end; "
            "name one there"
        ) from None
    return folder


class _Progress:
    """Tells the agent, at most once a second, what is being done."""

    def __init__(self, group: Group) -> None:
        self._group = group
        self._next = 0.0

    def note(self, message: str, step: int = 0, steps: int = 0) -> None:
        """`step` of `steps` documents are tokenised."""
        if time.monotonic() >= self._next or (steps and step == steps):
            self._group.report(progress=Progress(step=step, steps=steps, message=message))
            self._next = time.monotonic() + _REPORT_SECONDS

    def noting(self, message: str, texts: Iterator[str]) -> Iterator[str]:
        """The texts, with a note for each; the first is told in any case, for training goes on when all are read."""
        self._next = 0.0
        for text in texts:
            self.note(message)
            yield text


def _batches(documents: Iterator[Kept]) -> Iterator[list[Kept]]:
    batch: list[Kept] = []
    size = 0
    for document in documents:
        batch.append(document)
        size += document.num_bytes
        if size >= _BATCH_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _empty_folder(group: Group) -> Path:
    """A new folder to build in; what earlier attempts left of theirs is removed."""
    for left in group.output.glob("building-*"):
        shutil.rmtree(left)
    folder = group.output / f"building-{group.attempt}"
    folder.mkdir()
    return folder


def _publish(folder: Path, output: Path) -> None:
    """Move what was built to its place. An attempt that ended between here and artifact.json is replaced."""
    for part in sorted(folder.iterdir()):
        sync_folder(part)
        if (output / part.name).exists():
            shutil.rmtree(output / part.name)
        part.rename(output / part.name)
    folder.rmdir()
    sync_folder(output)


def _metrics(survey: Survey, splits: dict[Split, ShardWriter], tokenizer: Tokenizer) -> dict[str, float]:
    tokens = sum(writer.num_tokens for writer in splits.values())
    return {
        "documents": float(survey.documents),
        "documents_kept": float(survey.kept.total()),
        "documents_dropped": float(survey.dropped.total()),
        "documents_repaired": float(survey.repaired),
        "train_tokens": float(splits["train"].num_tokens),
        "held_out_tokens": float(splits["heldOut"].num_tokens),
        "held_out_bytes": float(survey.num_bytes["heldOut"]),
        "bytes_per_token": survey.num_bytes.total() / tokens,
        "vocab_size": float(tokenizer.get_vocab_size()),
    }


def _megabytes(survey: Survey) -> str:
    return f"{survey.num_bytes.total() / 1e6:.1f} MB"
