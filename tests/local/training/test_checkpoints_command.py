"""`trainyard checkpoints`, on what a real training of two ranks has saved, whole and damaged."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from training import TINY, Ranks, a_job
from trainyard_operator.cli.checkpoints import checkpoints_command
from trainyard_operator.cli.main import read_options
from trainyard_operator.cluster.home import Home

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


@pytest.fixture(scope="module")
def trained(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with a run that has saved steps 2, 4, 6 and 8."""
    root = tmp_path_factory.mktemp("trained") / "home"
    home = Home(root)
    home.write_run(MANIFEST)
    output = home.volume("training") / "default/tiny/base"
    output.parent.mkdir(parents=True)
    settings = TINY | {"steps": 8, "checkpoint": {"everySteps": 2, "keep": 4}}
    Ranks(a_job("pretrain", output, settings, {"data": corpus})).succeed()
    return root


@pytest.fixture
def home(trained: Path, tmp_path: Path) -> Path:
    """A copy of it, to be damaged."""
    return Path(shutil.copytree(trained, tmp_path / "home"))


class Said:
    """What a command printed, and its exit code."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err


Command = Callable[..., Said]


@pytest.fixture
def checkpoints(home: Path, capsys: pytest.CaptureFixture[str]) -> Command:
    """Runs `trainyard checkpoints`."""

    def run(action: str, *arguments: str) -> Said:
        capsys.readouterr()
        code = checkpoints_command(read_options(["checkpoints", action, *arguments, "--home", str(home)]))
        return Said(code, *capsys.readouterr())

    return run


def folder(home: Path) -> Path:
    return home / "volumes/training/default/tiny/base/checkpoints"


def step(home: Path, number: int) -> Path:
    return folder(home) / f"step-{number:08}"


def names(home: Path) -> list[str]:
    return sorted(each.name for each in folder(home).iterdir() if each.name != "fence")


def flip_a_bit(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def test_ls_shows_what_there_is_and_what_is_wrong_with_it(home: Path, checkpoints: Command) -> None:
    (step(home, 4) / SHARD).unlink()
    step(home, 6).rename(folder(home) / "step-00000006.bad")
    (folder(home) / "step-00000006.bad/reason.txt").write_text("rank-00000.safetensors has other content\n")
    shutil.copytree(step(home, 8), folder(home) / "step-00000010.1.tmp")
    shutil.copytree(step(home, 8), folder(home) / "step-00000012.0.tmp")
    listed = checkpoints("ls", "tiny")
    rows = [line.split() for line in listed.out.splitlines()]
    assert rows[0] == ["STAGE", "STEP", "TIME", "ATTEMPT", "WORLD", "ZERO", "SIZE", "STATE"]
    assert [(row[1], " ".join(row[8:] if row[2].startswith("20") else row[5:])) for row in rows[1:]] == [
        ("2", "committed"),
        ("4", f"bad: {SHARD} is missing"),
        ("6", "bad: rank-00000.safetensors has other content"),
        ("8", "committed"),
        ("10", "being written"),
        ("12", "left over"),
    ]
    as_json = json.loads(checkpoints("ls", "tiny", "-o", "json").out)
    assert [each["state"] for each in as_json] == ["committed", "bad", "bad", "committed", "being written", "left over"]
    first = as_json[0]
    assert (first["stage"], first["step"], first["attempt"], first["worldSize"], first["zeroStage"]) == (
        "base",
        2,
        1,
        2,
        0,
    )
    assert first["bytes"] == sum(file.stat().st_size for file in step(home, 2).iterdir())
    assert as_json == json.loads(checkpoints("ls", folder(home).as_uri(), "-o", "json").out)


def test_show_tells_what_a_checkpoint_holds(home: Path, checkpoints: Command) -> None:
    shown = checkpoints("show", "tiny", "--step", "4").out
    for expected in (
        step(home, 4).as_uri(),
        "attempt 1, 2 ranks, ZeRO 0",
        "positions 0 to 31 of seed 7 are done: 4 global batches of 8 × 16 tokens",
        "rank-00000.safetensors",
        "model.embed_tokens.weight",
        "300 × 32",
    ):
        assert expected in shown
    manifest = json.loads((step(home, 8) / "manifest.json").read_text())
    assert json.loads(checkpoints("show", "tiny", "-o", "json").out) == manifest
    assert json.loads(checkpoints("show", str(step(home, 8)), "-o", "json").out) == manifest


DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "a flipped bit": (lambda it: flip_a_bit(it / SHARD), f"{SHARD} has other content"),
    "a truncated shard": (lambda it: (it / SHARD).write_bytes((it / SHARD).read_bytes()[:-9]), f"{SHARD} has "),
    "a missing shard": (lambda it: (it / SHARD).unlink(), f"{SHARD} is missing"),
    "half a manifest": (lambda it: (it / "manifest.json").write_text('{"step": 8'), "manifest.json is damaged"),
    "no manifest": (lambda it: (it / "manifest.json").unlink(), "manifest.json is missing"),
    "a manifest that leads out of the checkpoint": (
        lambda it: (it / "manifest.json").write_text((it / "manifest.json").read_text().replace(SHARD, "../../fence")),
        "manifest.json is damaged",
    ),
}


@pytest.mark.parametrize(("damage", "reason"), DAMAGE.values(), ids=DAMAGE.keys())
def test_what_is_damaged_is_neither_verified_nor_copied_nor_counted_as_good(
    home: Path, tmp_path: Path, checkpoints: Command, damage: Callable[[Path], object], reason: str
) -> None:
    damage(step(home, 8))
    verified = checkpoints("verify", "tiny")
    assert verified.code == 1
    assert f"{step(home, 8)}: bad: {reason}" in verified.out
    assert f"{step(home, 6)}: good: 2 shards" in verified.out
    assert checkpoints("verify", "tiny", "--step", "6").code == 0

    copied = checkpoints("copy", "tiny", str(tmp_path / "copies"))
    assert (copied.code, f"bad: {reason}" in copied.err) == (1, True)
    assert list((tmp_path / "copies").iterdir()) == []

    pruned = checkpoints("prune", "tiny", "--keep", "1")
    assert pruned.code == 0
    assert names(home) == ["step-00000006", "step-00000008"], "the newest good one and the last one"
    assert f"{step(home, 6)}: kept: the newest good one" in pruned.out


def test_verify_says_how_far_it_is(checkpoints: Command) -> None:
    assert "step-00000004: 2/2 rank-00001.safetensors" in checkpoints("verify", "tiny").err


def test_a_copy_is_the_same_and_training_could_take_it(home: Path, tmp_path: Path, checkpoints: Command) -> None:
    copies = tmp_path / "elsewhere/checkpoints"
    copied = checkpoints("copy", "tiny", copies.as_uri(), "--step", "4")
    assert (copied.code, f"{copies / 'step-00000004'}: good" in copied.out) == (0, True)
    assert [each.name for each in copies.iterdir()] == ["step-00000004"]
    for file in step(home, 4).iterdir():
        assert (copies / "step-00000004" / file.name).read_bytes() == file.read_bytes()
    again = checkpoints("copy", "tiny", str(copies), "--step", "4")
    assert (again.code, "exists already" in again.err) == (2, True)


PRUNED: dict[str, tuple[list[str], list[int]]] = {
    "the last two": (["--keep", "2"], [6, 8]),
    "the last one and every fourth step": (["--keep", "1", "--every", "4"], [4, 8]),
    "more than there are": (["--keep", "9"], [2, 4, 6, 8]),
}


@pytest.mark.parametrize(("arguments", "kept"), PRUNED.values(), ids=PRUNED.keys())
def test_prune_keeps(home: Path, checkpoints: Command, arguments: list[str], kept: list[int]) -> None:
    pruned = checkpoints("prune", "tiny", *arguments)
    assert names(home) == [f"step-{number:08}" for number in kept]
    gone = [number for number in (2, 4, 6, 8) if number not in kept]
    assert [line.split(": ")[:2] for line in pruned.out.splitlines()[:-1]] == [
        [str(step(home, number)), "deleted"] for number in gone
    ]


def test_prune_keeps_what_the_artifact_names(home: Path, checkpoints: Command) -> None:
    shutil.copytree(step(home, 8), step(home, 10))
    pruned = checkpoints("prune", "tiny", "--keep", "1")
    assert names(home) == ["step-00000008", "step-00000010"]
    assert f"{step(home, 8)}: kept: what {home}/volumes/training/default/tiny/base/artifact.json names" in pruned.out


def test_prune_deletes_nothing_if_none_is_good(home: Path, checkpoints: Command) -> None:
    for number in (2, 4, 6, 8):
        flip_a_bit(step(home, number) / SHARD)
    assert checkpoints("prune", "tiny", "--keep", "1").code == 1
    assert len(names(home)) == 4


@pytest.mark.parametrize("named", ["tiny", "by path"])
def test_prune_keeps_off_a_run_that_is_driven(home: Path, checkpoints: Command, named: str) -> None:
    with Home(home).held("default", "tiny"):
        refused = checkpoints("prune", "tiny" if named == "tiny" else str(folder(home)), "--keep", "1")
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
    "a folder that isn't there": (["verify", "/nowhere/checkpoints"], "/nowhere/checkpoints: no such folder"),
    "a folder without checkpoints": (["ls", "/"], "/: no checkpoint is in it"),
    "storage that can't be read from here": (["ls", "s3://bucket/run"], "s3://bucket/run: only paths and file:// URIs"),
    "a step that isn't there": (["show", "tiny", "--step", "3"], "no committed checkpoint of step 3; `trainyard"),
    "a stage beside a path": (["ls", "/", "--stage", "base"], "--stage: goes with the name of a run"),
}


@pytest.mark.parametrize(("arguments", "message"), MISTAKES.values(), ids=MISTAKES.keys())
def test_a_mistake_is_told_with_its_remedy(checkpoints: Command, arguments: list[str], message: str) -> None:
    refused = checkpoints(*arguments)
    assert (refused.code, message in refused.err) == (2, True), refused.err
