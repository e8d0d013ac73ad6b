"""`trainyard checkpoints`, on what a real training of two ranks has saved, whole and damaged."""

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from object_store import connected_to, object_store
from training import TINY, a_job, committed_steps, held_out_losses
from trainyard_api.checkpoint import Name
from trainyard_api.storage import Files
from trainyard_operator.cli.checkpoints import checkpoints_command
from trainyard_operator.cli.main import read_options
from trainyard_operator.cluster.home import Home
from warm_ranks import train_saving_each

MANIFEST: dict[str, Any] = {
    "apiVersion": "trainyard.dev/v1alpha1",
    "kind": "TrainingRun",
    "metadata": {"name": "tiny", "namespace": "default", "uid": "u"},
    "spec": {
        "storage": {"claimName": "training"},
        "stages": [
            {"name": "corpus", "prepare": {"sources": [{"builtin": "python-docs"}]}},
            {"name": "base", "pretrain": TINY},
        ],
    },
}
SHARD = "rank-00001.safetensors"
EVERY = 15


@dataclass(frozen=True)
class Trained:
    """A home with a run of which four checkpoints are there."""

    root: Path
    steps: list[int]

    @property
    def folder(self) -> Path:
        return self.root / "volumes/training/default/tiny/base/checkpoints"

    def step(self, number: int) -> Path:
        """The folder of a checkpoint, 0 … 3."""
        return self.folder / str(Name(self.steps[number], 1))

    def held_out_losses(self) -> list[float]:
        """That training has written down for each."""
        written = held_out_losses(self.folder.parent)
        return [written[step] for step in self.steps]


@pytest.fixture(scope="module")
def trained(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    root = tmp_path_factory.mktemp("trained") / "home"
    home = Home(root)
    home.write_run(MANIFEST)
    output = home.volume("training") / "default/tiny/base"
    output.parent.mkdir(parents=True)
    settings = TINY | {
        "steps": 60,
        "optimizer": {"learningRate": 1},  # so that losses go up and down
        "schedule": {"warmupSteps": 40, "finalFraction": 1},
        "validation": {"everySteps": EVERY, "sequences": 5},
        "checkpoint": {"everySteps": EVERY, "keep": 4},
    }
    job = a_job("pretrain", output, settings, {"data": corpus})
    train_saving_each(job, EVERY, steps=60, world_size=2)
    steps = committed_steps(output)
    assert steps == [15, 30, 45, 60]
    return Trained(root, steps)


@pytest.fixture
def home(trained: Trained, tmp_path: Path) -> Trained:
    """A copy of it, to be damaged."""
    return replace(trained, root=Path(shutil.copytree(trained.root, tmp_path / "home")))


class Said:
    """What a command printed, and its exit code."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err


Command = Callable[..., Said]


@pytest.fixture
def checkpoints(home: Trained, capsys: pytest.CaptureFixture[str]) -> Command:
    """Runs `trainyard checkpoints`."""

    def run(action: str, *arguments: str) -> Said:
        capsys.readouterr()
        code = checkpoints_command(read_options(["checkpoints", action, *arguments, "--home", str(home.root)]))
        return Said(code, *capsys.readouterr())

    return run


def names(home: Trained) -> list[str]:
    return sorted(each.name for each in home.folder.iterdir() if each.name != "attempts")


def flip_a_bit(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def test_ls_shows_what_there_is_and_what_is_wrong_with_it(home: Trained, checkpoints: Command) -> None:
    (home.step(1) / SHARD).unlink()
    bad = {"reason": "rank-00000.safetensors has other content", "time": "2026-11-24T12:00:00+00:00"}
    (home.step(2) / "bad.json").write_text(json.dumps(bad))
    resumed = {"attempt": 2, "after": 0, "runUid": "u", "resumedStep": 65}
    (home.folder / "attempts/00000002.json").write_text(json.dumps(resumed))
    for name in ("step-00000070-a1", "step-00000080-a2", "step-00000080-a1"):
        made = shutil.copytree(home.step(3), home.folder / name)
        manifest = json.loads((made / "manifest.json").read_text())
        (made / "manifest.json").write_text(json.dumps(manifest | {"step": Name.read(name).step}))
    for name in ("step-00000080-a2", "step-00000080-a1"):
        (home.folder / name / "manifest.json").unlink()
    as_json = json.loads(checkpoints("ls", "tiny", "-o", "json").out)
    assert [(each["step"], each["state"], each.get("reason")) for each in as_json] == [
        (home.steps[0], "committed", None),
        (home.steps[1], "bad", f"{SHARD} is missing"),
        (home.steps[2], "bad", "rank-00000.safetensors has other content"),
        (home.steps[3], "committed", None),
        (70, "void", "attempt 2 began from step 65"),
        (80, "left over", None),
        (80, "being written", None),
    ]
    first = as_json[0]
    assert (first["stage"], first["attempt"], first["worldSize"], first["zeroStage"]) == ("base", 1, 2, 0)
    assert first["bytes"] == sum(file.stat().st_size for file in home.step(0).iterdir())
    assert as_json == json.loads(checkpoints("ls", home.folder.as_uri(), "-o", "json").out)

    heading, *rows = checkpoints("ls", "tiny").out.splitlines()
    assert heading.split() == ["STAGE", "STEP", "TIME", "ATTEMPT", "WORLD", "ZERO", "HELD-OUT", "SIZE", "STATE"]
    for row, each in zip(rows, as_json, strict=True):
        assert row.split()[:2] == ["base", str(each["step"])]
        assert row.endswith(f"   {each['state']}" + (f": {each['reason']}" if "reason" in each else ""))


def test_show_tells_what_a_checkpoint_holds(home: Trained, checkpoints: Command) -> None:
    at = home.steps[1]
    shown = checkpoints("show", "tiny", "--step", str(at)).out
    for expected in (
        home.step(1).as_uri(),
        "attempt 1, 2 ranks, ZeRO 0",
        f"positions 0 to {at * 8 - 1} of seed 7 are done: {at} global batches of 8 × 16 tokens",
        "rank-00000.safetensors",
        "model.embed_tokens.weight",
        "300 × 32",
    ):
        assert expected in shown
    manifest = json.loads((home.step(3) / "manifest.json").read_text())
    assert json.loads(checkpoints("show", "tiny", "-o", "json").out) == manifest
    assert json.loads(checkpoints("show", str(home.step(3)), "-o", "json").out) == manifest


def test_held_out_losses_are_shown_and_the_best_kept(home: Trained, checkpoints: Command) -> None:
    losses = home.held_out_losses()
    as_json = json.loads(checkpoints("ls", "tiny", "-o", "json").out)
    assert [each["heldOutLoss"] for each in as_json] == pytest.approx(losses)
    heading, *rows = checkpoints("ls", "tiny").out.splitlines()
    column = heading.index("HELD-OUT")
    assert [row[column:].split()[0] for row in rows] == [f"{loss:.4f}" for loss in losses]
    for at, loss in zip(home.steps, losses, strict=True):
        assert f"held-out loss: {loss:.4f}" in checkpoints("show", "tiny", "--step", str(at)).out

    best = sorted(range(4), key=losses.__getitem__)[:2]
    assert checkpoints("prune", "tiny", "--keep", "1", "--best", "2").code == 0
    assert names(home) == [home.step(number).name for number in sorted({*best, 3})]


DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "a flipped bit": (lambda it: flip_a_bit(it / SHARD), f"{SHARD} has other content"),
    "a truncated shard": (lambda it: (it / SHARD).write_bytes((it / SHARD).read_bytes()[:-9]), f"{SHARD} has "),
    "a missing shard": (lambda it: (it / SHARD).unlink(), f"{SHARD} is missing"),
    "half a manifest": (lambda it: (it / "manifest.json").write_text('{"step": 8'), "manifest.json is damaged"),
    "a manifest that leads out of the checkpoint": (
        lambda it: (it / "manifest.json").write_text(
            (it / "manifest.json").read_text().replace(SHARD, "../../artifact.json")
        ),
        "manifest.json is damaged",
    ),
}


@pytest.mark.parametrize(("damage", "reason"), DAMAGE.values(), ids=DAMAGE.keys())
def test_what_is_damaged_is_neither_verified_nor_copied_nor_counted_as_good(
    home: Trained, tmp_path: Path, checkpoints: Command, damage: Callable[[Path], object], reason: str
) -> None:
    damage(home.step(3))
    verified = checkpoints("verify", "tiny")
    assert verified.code == 1
    assert f"{home.step(3)}: bad: {reason}" in verified.out
    assert f"{home.step(2)}: good: 2 shards" in verified.out
    assert checkpoints("verify", "tiny", "--step", str(home.steps[2])).code == 0

    copied = checkpoints("copy", "tiny", str(tmp_path / "copies"))
    assert (copied.code, f"bad: {reason}" in copied.err) == (1, True)
    assert Files(tmp_path / "copies").names() == []

    pruned = checkpoints("prune", "tiny", "--keep", "1")
    assert pruned.code == 0
    assert names(home) == [home.step(2).name, home.step(3).name], "the newest good one and the last one"
    assert f"{home.step(2)}: kept: the newest good one" in pruned.out


def test_verify_says_how_far_it_is(home: Trained, checkpoints: Command) -> None:
    assert f"{home.step(1).name}: 2/2 rank-00001.safetensors" in checkpoints("verify", "tiny").err


def test_a_copy_is_the_same_and_training_could_take_it(home: Trained, tmp_path: Path, checkpoints: Command) -> None:
    source, copies = home.step(1), tmp_path / "elsewhere/checkpoints"
    copied = checkpoints("copy", "tiny", copies.as_uri(), "--step", str(home.steps[1]))
    assert (copied.code, f"{copies / source.name}: good" in copied.out) == (0, True)
    assert [each.name for each in copies.iterdir()] == [source.name]
    for file in source.iterdir():
        assert (copies / source.name / file.name).read_bytes() == file.read_bytes()
    again = checkpoints("copy", "tiny", str(copies), "--step", str(home.steps[1]))
    assert (again.code, "exists already" in again.err) == (2, True)


def test_checkpoints_go_to_an_object_store_and_come_back(home: Trained, tmp_path: Path, checkpoints: Command) -> None:
    with object_store() as store, connected_to(store):
        there = store.uri("tiny/base/checkpoints")
        for at in home.steps[1:]:
            copied = checkpoints("copy", "tiny", there, "--step", str(at))
            assert (copied.code, f"{there}/{Name(at, 1)}: good" in copied.out) == (0, True), copied.err
        as_json = json.loads(checkpoints("ls", store.uri("tiny/base"), "-o", "json").out)
        assert [(each["stage"], each["step"], each["state"]) for each in as_json] == [
            ("base", at, "committed") for at in home.steps[1:]
        ]
        assert checkpoints("verify", there).code == 0
        pruned = checkpoints("prune", there, "--keep", "1")
        assert (pruned.code, pruned.out.count(": deleted: ")) == (0, 2)
        back = tmp_path / "back"
        copied = checkpoints("copy", f"{there}/{home.step(3).name}", str(back))
        assert (copied.code, [each.name for each in back.iterdir()]) == (0, [home.step(3).name]), copied.err
    for file in home.step(3).iterdir():
        assert (back / home.step(3).name / file.name).read_bytes() == file.read_bytes()


def test_a_copy_to_where_attempts_have_begun_counts_there(home: Trained, tmp_path: Path, checkpoints: Command) -> None:
    there = tmp_path / "run/checkpoints"
    (there / "attempts").mkdir(parents=True)
    resumed = {"attempt": 4, "after": 0, "runUid": "u", "resumedStep": 0}
    (there / "attempts/00000004.json").write_text(json.dumps(resumed))
    assert checkpoints("copy", "tiny", str(there)).code == 0
    [copied] = json.loads(checkpoints("ls", str(there), "-o", "json").out)
    assert (copied["step"], copied["state"], copied["attempt"]) == (home.steps[3], "committed", 4)


PRUNED: dict[str, tuple[Callable[[list[int]], list[str]], list[int]]] = {
    "the last two": (lambda steps: ["--keep", "2"], [2, 3]),
    "the last two and every so many steps": (lambda steps: ["--keep", "2", "--every", str(steps[1])], [1, 2, 3]),
    "more than there are": (lambda steps: ["--keep", "9"], [0, 1, 2, 3]),
}
"""Arguments, and which checkpoints stay."""


@pytest.mark.parametrize(("arguments", "kept"), PRUNED.values(), ids=PRUNED.keys())
def test_prune_keeps(
    home: Trained, checkpoints: Command, arguments: Callable[[list[int]], list[str]], kept: list[int]
) -> None:
    pruned = checkpoints("prune", "tiny", *arguments(home.steps))
    assert names(home) == [home.step(number).name for number in kept]
    deleted = [str(home.step(number)) for number in range(4) if number not in kept]
    assert [line.split(": ")[:2] for line in pruned.out.splitlines()[:-1]] == [[path, "deleted"] for path in deleted]


def test_prune_keeps_what_the_artifact_names(home: Trained, checkpoints: Command) -> None:
    newer = shutil.copytree(home.step(3), home.folder / "step-00000070-a1")
    manifest = json.loads((newer / "manifest.json").read_text())
    (newer / "manifest.json").write_text(json.dumps(manifest | {"step": 70}))
    pruned = checkpoints("prune", "tiny", "--keep", "1")
    assert names(home) == [home.step(3).name, "step-00000070-a1"]
    assert f"{home.step(3)}: kept: what {home.folder.parent}/artifact.json names" in pruned.out


def test_prune_deletes_what_no_run_looks_at_any_more(home: Trained, checkpoints: Command) -> None:
    (home.step(0) / "bad.json").write_text('{"reason": "other content", "time": ""}')
    resumed = {"attempt": 2, "after": 0, "runUid": "u", "resumedStep": home.steps[2]}
    (home.folder / "attempts/00000002.json").write_text(json.dumps(resumed))
    (home.folder / "step-00000080-a1").mkdir()
    pruned = checkpoints("prune", "tiny", "--keep", "2")
    assert f"{home.step(3)}: kept: what " in pruned.out
    assert names(home) == [home.step(number).name for number in (1, 2, 3)]


def test_prune_deletes_nothing_if_none_is_good(home: Trained, checkpoints: Command) -> None:
    for number in range(4):
        flip_a_bit(home.step(number) / SHARD)
    assert checkpoints("prune", "tiny", "--keep", "1").code == 1
    assert len(names(home)) == 4


@pytest.mark.parametrize("named", ["tiny", "by path"])
def test_prune_keeps_off_a_run_that_is_driven(home: Trained, checkpoints: Command, named: str) -> None:
    with Home(home.root).held("default", "tiny"):
        refused = checkpoints("prune", "tiny" if named == "tiny" else str(home.folder), "--keep", "1")
    assert refused.code == 2
    assert "run tiny is driven by process" in refused.err
    assert len(names(home)) == 4


MISTAKES: dict[str, tuple[list[str], str]] = {
    "a run that isn't there": (["ls", "other"], "run other: not in"),
    "a stage that the run doesn't have": (
        ["ls", "tiny", "--stage", "chat"],
        "--stage: run tiny has no stage chat; use",
    ),
    "a stage without checkpoints": (
        ["ls", "tiny", "--stage", "corpus"],
        "stage corpus of run tiny: has no checkpoints",
    ),
    "a folder that isn't there": (["verify", "/nowhere/checkpoints"], "/nowhere/checkpoints: no checkpoint is there"),
    "a folder without checkpoints": (["ls", "/"], "/: no checkpoint is there; give a folder that has step-00000100-a1"),
    "storage of a kind that is not known": (["ls", "tape://reel/run"], "tape://reel/run: "),
    "a step that isn't there": (["show", "tiny", "--step", "3"], "no committed checkpoint of step 3; `trainyard"),
    "a stage beside a path": (["ls", "/", "--stage", "base"], "--stage: goes with the name of a run"),
}


@pytest.mark.parametrize(("arguments", "message"), MISTAKES.values(), ids=MISTAKES.keys())
def test_a_mistake_is_told_with_its_remedy(checkpoints: Command, arguments: list[str], message: str) -> None:
    refused = checkpoints(*arguments)
    assert (refused.code, message in refused.err) == (2, True), refused.err
