"""Checkpoints on a real disk: what is damaged is put aside, what is older can't write, nothing begins anew in silence."""

import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from engines import CURSOR, an_engine, pretrain_connected
from training import TINY, TINY_LLAMA, a_job
from trainyard_api.checkpoint import Cursor, CursorPart, committed
from trainyard_api.checkpoint_settings import CheckpointSettings
from trainyard_api.training_stages import ModelSettings, PretrainStage
from trainyard_trainer.checkpoint.restore import load_state, load_weights, refuse_other_training
from trainyard_trainer.checkpoint.saving import Saving
from trainyard_trainer.checkpoint.store import Checkpoints
from trainyard_trainer.engine.engine import Engine
from trainyard_trainer.engine.randomness import restore_streams, save_streams, seed_streams
from trainyard_trainer.errors import PermanentError, RetryableError
from trainyard_trainer.group import Group
from trainyard_trainer.models.build import build_model, model_config


@pytest.fixture(scope="session")
def engine(device: torch.device) -> Engine:
    return an_engine(device)


@pytest.fixture
def saved(group: Group, engine: Engine) -> Path:
    """Checkpoints of steps 10 and 20."""
    save(begun(group), engine, 10, 20)
    return group.output / "checkpoints"


def begun(group: Group, step: int = 0) -> Checkpoints:
    """The checkpoints of an attempt that has begun from a step."""
    checkpoints = Checkpoints(group)
    checkpoints.begin(step)
    return checkpoints


def save(checkpoints: Checkpoints, engine: Engine, *steps: int) -> None:
    """Commit a checkpoint of each step."""
    with Saving(checkpoints, CheckpointSettings(keep=2), engine, CURSOR, lambda *_: None) as saving:
        for step in steps:
            saving.commit(step)


def newest_step(group: Group) -> int | None:
    newest = Checkpoints(group).newest()
    return newest[0].step if newest else None


def shard(checkpoint: Path) -> Path:
    return checkpoint / "rank-00000.safetensors"


def truncate(checkpoint: Path) -> None:
    shard(checkpoint).write_bytes(shard(checkpoint).read_bytes()[:-100])


def flip_a_bit(checkpoint: Path) -> None:
    content = bytearray(shard(checkpoint).read_bytes())
    content[len(content) // 2] ^= 1
    shard(checkpoint).write_bytes(content)


def halve_the_manifest(checkpoint: Path) -> None:
    manifest = checkpoint / "manifest.json"
    manifest.write_bytes(manifest.read_bytes()[: manifest.stat().st_size // 2])


def other_run(checkpoint: Path) -> None:
    """The same step of a run with other weights."""
    path = checkpoint / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["runUid"] = "another"
    manifest["shards"][0]["sha256"] = hashlib.sha256(b"other weights").hexdigest()
    path.write_text(json.dumps(manifest))


DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "a truncated shard": (truncate, "rank-00000.safetensors has "),
    "a flipped bit": (flip_a_bit, "rank-00000.safetensors has other content"),
    "a missing shard": (lambda checkpoint: shard(checkpoint).unlink(), "rank-00000.safetensors is missing"),
    "half a manifest": (halve_the_manifest, "manifest.json is damaged"),
    "the manifest of another step": (
        lambda checkpoint: shutil.copy(checkpoint.parent / "step-00000010-a1/manifest.json", checkpoint),
        "manifest.json is that of step 10",
    ),
    "the manifest of another run": (other_run, "rank-00000.safetensors has other content"),
    "a manifest of another kind": (
        lambda checkpoint: (checkpoint / "manifest.json").write_text("[]"),
        "manifest.json is damaged",
    ),
}


@pytest.mark.parametrize(("damage", "reason"), DAMAGE.values(), ids=DAMAGE.keys())
def test_a_damaged_checkpoint_is_put_aside_and_the_one_before_taken(
    group: Group, saved: Path, damage: Callable[[Path], object], reason: str
) -> None:
    damage(saved / "step-00000020-a1")
    assert newest_step(group) == 10
    bad = json.loads((saved / "step-00000020-a1/bad.json").read_text())
    assert bad["reason"].startswith(reason)
    assert newest_step(group) == 10


def test_when_all_are_damaged_nothing_begins_anew(group: Group, saved: Path) -> None:
    truncate(saved / "step-00000010-a1")
    flip_a_bit(saved / "step-00000020-a1")
    for _ in range(2):  # also not at the next try, when they are put aside already
        with pytest.raises(PermanentError, match=r"every checkpoint is bad \(step-00000010-a1, step-00000020-a1; "):
            newest_step(group)


def test_without_a_checkpoint_training_begins(group: Group) -> None:
    assert newest_step(group) is None


def test_what_was_being_written_is_no_checkpoint_and_the_next_attempt_clears_it_away(group: Group, saved: Path) -> None:
    shutil.copytree(saved / "step-00000020-a1", saved / "step-00000030-a1")
    (saved / "step-00000030-a1/manifest.json").unlink()
    second = Checkpoints(replace(group, attempt=2))
    newest = second.newest()
    assert newest
    assert newest[0].step == 20
    assert (saved / "step-00000030-a1").exists(), "it may be that of an attempt that goes on"
    second.begin(20)
    assert names(saved) == ["attempts", "step-00000010-a1", "step-00000020-a1"]


def names(folder: Path) -> list[str]:
    return sorted(each.name for each in folder.iterdir())


def test_an_older_attempt_can_not_begin(group: Group, saved: Path) -> None:
    second, third = (Checkpoints(replace(group, attempt=attempt)) for attempt in (2, 3))
    third.begin(20)
    with pytest.raises(RetryableError, match="attempt 3 has begun; attempt 2 is over"):
        Checkpoints(replace(group, attempt=2))
    with pytest.raises(RetryableError, match="attempt 3 has begun; attempt 2 is over"):
        second.begin(20)


def test_an_older_attempt_can_not_commit(group: Group, engine: Engine) -> None:
    first = begun(group)
    begun(replace(group, attempt=2))
    with pytest.raises(RetryableError, match="attempt 2 has begun; attempt 1 saves nothing any more"):
        save(first, engine, 10)
    assert newest_step(replace(group, attempt=2)) is None


def test_what_an_older_attempt_commits_all_the_same_does_not_count(group: Group, saved: Path) -> None:
    second = begun(replace(group, attempt=2), 20)
    late = Path(shutil.copytree(saved / "step-00000020-a1", saved / "step-00000030-a1"))
    manifest = json.loads((late / "manifest.json").read_text())
    (late / "manifest.json").write_text(json.dumps(manifest | {"step": 30}))
    assert newest_step(second.group) == 20
    begun(replace(group, attempt=3), 20)
    assert names(saved) == ["attempts", "step-00000010-a1", "step-00000020-a1"]


def test_a_run_of_the_same_name_comes_after_the_one_before_it(group: Group, engine: Engine, saved: Path) -> None:
    old = begun(replace(group, attempt=7), 20)
    new = replace(group, job=group.job.model_copy(update={"run_uid": "new"}))
    for attempt in (1, 2):
        checkpoints = begun(replace(new, attempt=attempt), 20)
        assert checkpoints.attempt == 7 + attempt
    with pytest.raises(RetryableError, match="attempt 9 has begun; attempt 7 saves nothing any more"):
        save(old, engine, 30)
    save(checkpoints, engine, 30)
    assert committed(checkpoints.storage) == [(20, 1), (30, 9)]


def test_only_a_commit_prunes(group: Group, engine: Engine, saved: Path) -> None:
    save(begun(group, 20), engine, 30)
    assert names(saved) == ["attempts", "step-00000020-a1", "step-00000030-a1"]


def test_what_is_bad_goes_when_all_that_is_kept_is_newer(group: Group, engine: Engine, saved: Path) -> None:
    flip_a_bit(saved / "step-00000020-a1")
    assert newest_step(group) == 10
    checkpoints = begun(replace(group, attempt=2), 10)
    save(checkpoints, engine, 20)
    assert names(saved) == ["attempts", "step-00000010-a1", "step-00000020-a1", "step-00000020-a2"]
    save(checkpoints, engine, 30, 40)
    assert names(saved) == ["attempts", "step-00000030-a2", "step-00000040-a2"]


def test_storage_that_can_not_be_written_is_worth_another_try(group: Group, engine: Engine) -> None:
    checkpoints = begun(group)
    (group.output / "checkpoints/step-00000010-a1").write_text("in the way")
    with pytest.raises(RetryableError, match=r"checkpoints: rank 0: .*step-00000010"):
        save(checkpoints, engine, 10)


def test_the_manifest_says_what_the_checkpoint_is(group: Group, saved: Path) -> None:
    manifest = json.loads((saved / "step-00000020-a1/manifest.json").read_text())
    assert (manifest["step"], manifest["attempt"], manifest["worldSize"], manifest["zeroStage"]) == (20, 1, 1, 0)
    assert manifest["cursor"] == {
        "seed": 7,
        "globalBatch": 8,
        "sequenceLength": 16,
        "objective": "NextToken",
        "parts": [{"digest": "d", "weight": 1}],
    }
    assert manifest["parameters"]["model.embed_tokens.weight"] == [300, 32]
    [only] = manifest["shards"]
    assert only["bytes"] == shard(saved / "step-00000020-a1").stat().st_size
    assert len(only["sha256"]) == len(manifest["settingsDigest"]) == 64


def test_weights_come_back(group: Group, device: torch.device, engine: Engine, saved: Path) -> None:
    newest = Checkpoints(group).newest()
    assert newest
    other = an_engine(device, seed=8)
    load_state(other, *newest, group)
    pairs = zip(engine.fragments(), other.fragments(), strict=True)
    assert all(torch.equal(one.state[kind], two.state[kind]) for one, two in pairs for kind in one.state)


def on(*parts: tuple[str, int]) -> Cursor:
    """The cursor on these (digest, weight)."""
    return CURSOR.model_copy(update={"parts": [CursorPart(digest=digest, weight=weight) for digest, weight in parts]})


ONE_CORPUS = PretrainStage.model_validate(TINY | {"steps": 20})
TWO_CORPORA = PretrainStage.model_validate(
    {name: value for name, value in TINY.items() if name != "data"}
    | {"steps": 20, "mixture": [{"data": "a", "weight": 1}, {"data": "b", "weight": 2}]}
)
MIXED = on(("a", 1), ("b", 2))
OTHER_TRAININGS: dict[str, tuple[Cursor, Cursor, PretrainStage, str]] = {
    "another batch": (
        CURSOR,
        CURSOR.model_copy(update={"global_batch": 16}),
        ONE_CORPUS,
        r"^pretrain\.globalBatch: .*with 8, not 16",
    ),
    "another objective": (
        CURSOR.model_copy(update={"objective": "SpanCorruption"}),
        CURSOR.model_copy(update={"objective": "SequenceToSequence"}),
        ONE_CORPUS,
        r"^pretrain\.objective: .*with SpanCorruption, not SequenceToSequence",
    ),
    "another seed": (CURSOR, CURSOR.model_copy(update={"seed": 8}), ONE_CORPUS, r"^seed: .*with 7, not 8"),
    "other data": (CURSOR, on(("e", 1)), ONE_CORPUS, r"^pretrain\.data: .* with d, not e; set it back"),
    "fewer steps than are done": (
        CURSOR,
        CURSOR,
        ONE_CORPUS.model_copy(update={"steps": 19}),
        r"^pretrain\.steps: 19, but the checkpoint has 20 done",
    ),
    "another weight": (
        MIXED,
        on(("a", 1), ("b", 3)),
        TWO_CORPORA,
        r"^pretrain\.mixture\[1\]\.weight: .* with 2, not 3; set it back",
    ),
    "another part": (MIXED, on(("c", 1), ("b", 2)), TWO_CORPORA, r"^pretrain\.mixture\[0\]\.data: .* with a, not c"),
    "a part more": (CURSOR, MIXED, TWO_CORPORA, r"^pretrain\.mixture: .* with 1 corpora, not 2"),
    "a part less": (MIXED, CURSOR, ONE_CORPUS, r"^pretrain\.data: .* with 2 corpora, not 1"),
}


@pytest.mark.parametrize(("was", "now", "stage", "message"), OTHER_TRAININGS.values(), ids=OTHER_TRAININGS.keys())
def test_a_checkpoint_is_not_taken_for_another_training(
    group: Group, saved: Path, was: Cursor, now: Cursor, stage: PretrainStage, message: str
) -> None:
    newest = Checkpoints(group).newest()
    assert newest
    with pytest.raises(PermanentError, match=message):
        refuse_other_training(newest[0].model_copy(update={"cursor": was}), now, stage)


def test_a_checkpoint_is_not_taken_for_another_model(group: Group, saved: Path) -> None:
    newest = Checkpoints(group).newest()
    assert newest
    wider = ModelSettings.model_validate({"type": "llama", "config": TINY_LLAMA["config"] | {"hidden_size": 64}})
    model = build_model(model_config(wider, vocab_size=300, end_of_text=0, sequence_length=16), seed=0)
    with pytest.raises(PermanentError, match=r"pretrain\.model\.config: .*\[300, 64\] here and \[300, 32\] in the"):
        load_weights(model, *newest)


def test_what_deepspeed_refuses_is_told_in_its_words(device: torch.device) -> None:
    with pytest.raises(PermanentError, match=r"pretrain\.deepspeed: DeepSpeed refuses it: .*stage"):
        an_engine(device, zero_optimization={"stage": 4})


def test_training_that_diverges_says_at_which_step(device: torch.device, group: Group) -> None:
    broken = TINY | {"model": {"type": "llama", "config": TINY_LLAMA["config"] | {"rms_norm_eps": -1.0}}}
    job = group.job.model_copy(update={"settings": broken})
    with pytest.raises(PermanentError, match="diverged at step 1: loss nan"):
        pretrain_connected(replace(group, job=job), device)


def test_a_mixture_whose_weights_have_changed_is_not_trained_on(
    device: torch.device, group: Group, corpus: Path, tmp_path: Path
) -> None:
    def train_on(steps: int, *weights: int) -> None:
        names = ("corpus", "copy")
        mixture = [{"data": name, "weight": weight} for name, weight in zip(names, weights, strict=True)]
        settings = {name: value for name, value in TINY.items() if name != "data"} | {
            "mixture": mixture,
            "steps": steps,
        }
        inputs = {f"mixture[{number}].data": corpus for number in range(2)}
        job = a_job("pretrain", output, settings, inputs)
        pretrain_connected(replace(group, job=job, output=output, inputs=inputs), device)

    output = tmp_path / "base"
    output.mkdir()
    train_on(2, 3, 1)
    (output / "artifact.json").unlink()
    with pytest.raises(
        PermanentError, match=r"^pretrain\.mixture\[1\]\.weight: .*step 2 was trained with 1, not 2; set it"
    ):
        train_on(4, 3, 2)
    train_on(4, 3, 1)


def test_random_streams_go_on_where_they_were_saved() -> None:
    import random

    import numpy as np

    def draw() -> list[float]:
        return [random.random(), random.gauss(0, 1), np.random.rand(), np.random.randn(), torch.rand(1).item()]

    seed_streams(seed=1, step=2, rank=3)
    draw()
    streams = save_streams()
    expected = draw()
    seed_streams(seed=9, step=9, rank=9)
    restore_streams(streams)
    assert draw() == expected
