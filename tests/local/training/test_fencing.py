"""A group that was taken for dead and wakes up again, when the next attempt has long gone on without it."""

import hashlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conditions import eventually
from training import TINY, Ranks, a_job, committed, committed_steps
from trainyard_api.checkpoint import Name
from trainyard_api.exit_codes import ExitCode
from warm_ranks import WarmRanks

LAST = 60
SETTINGS: dict[str, Any] = TINY | {"steps": LAST, "checkpoint": {"everySteps": 5, "keep": 100}}


def contents(output: Path) -> dict[str, str]:
    """Digest of each file of each committed checkpoint, and of the artifact."""
    folders = (committed(output, step) for step in committed_steps(output))
    files = [output / "artifact.json", *(file for folder in folders for file in folder.iterdir())]
    return {str(file.relative_to(output)): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def unfinished(output: Path) -> list[Path]:
    """Folders with a shard of rank 0, and no manifest."""
    folders = (shard.parent for shard in output.glob("checkpoints/step-*/rank-00000*"))
    return [folder for folder in folders if not (folder / "manifest.json").exists()]


@pytest.fixture
def paused(corpus: Path, tmp_path: Path) -> Iterator[tuple[Ranks, list[int]]]:
    """A group that was stopped in the middle of a save, and all its processes."""
    ranks = WarmRanks(a_job("pretrain", tmp_path / "base", SETTINGS, {"data": corpus}))
    eventually(lambda: committed_steps(ranks.output), 60, "a checkpoint", ranks.said)
    everyone = [*(rank.pid for rank in ranks.processes), *ranks.writers()]
    os.kill(everyone[-1], signal.SIGSTOP)
    eventually(lambda: unfinished(ranks.output), 20, "a save that is under way", ranks.said)
    for process in everyone:
        os.kill(process, signal.SIGSTOP)
    yield ranks, everyone
    for rank in ranks.processes:  # its writer goes with it
        rank.kill()


def test_a_group_paused_in_mid_save_can_not_commit_when_it_goes_on(
    paused: tuple[Ranks, list[int]], corpus: Path
) -> None:
    older, everyone = paused
    before = committed_steps(older.output)
    newer = WarmRanks(a_job("pretrain", older.output, SETTINGS, {"data": corpus}), attempt=2)
    newer.succeed()
    assert [report["resumedStep"] for report in newer.reports() if "resumedStep" in report] == [before[-1]]
    steps, made = committed_steps(older.output), contents(older.output)
    assert (steps[: len(before)], steps[-1]) == (before, LAST)
    assert {Name.read(committed(older.output, step).name).attempt for step in steps[len(before) :]} == {2}

    for process in everyone:
        os.kill(process, signal.SIGCONT)
    assert older.wait() == [ExitCode.RETRY] * 2, older.said()
    assert "attempt 2 has begun; attempt 1 saves nothing any more" in older.said()
    assert contents(older.output) == made
