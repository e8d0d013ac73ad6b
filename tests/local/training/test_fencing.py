"""A group that was taken for dead and wakes up again, when the next attempt has long gone on without it."""

import hashlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conditions import eventually
from training import TINY, Ranks, a_job, committed
from trainyard_api.checkpoint import committed_steps, read_manifest
from trainyard_api.exit_codes import ExitCode

LAST = 60
SETTINGS: dict[str, Any] = TINY | {"steps": LAST, "checkpoint": {"everySteps": 5, "keep": 100}}


def contents(output: Path) -> dict[str, str]:
    """Digest of each file of each committed checkpoint, and of the artifact."""
    folders = (committed(output, step) for step in committed_steps(output / "checkpoints"))
    files = [output / "artifact.json", *(file for folder in folders for file in folder.iterdir())]
    return {str(file.relative_to(output)): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


@pytest.fixture
def paused(corpus: Path, tmp_path: Path) -> Iterator[tuple[Ranks, list[int]]]:
    """A group that was stopped in the middle of a save, and all its processes."""
    ranks = Ranks(a_job("pretrain", tmp_path / "base", SETTINGS, {"data": corpus}))
    folder = ranks.output / "checkpoints"
    eventually(lambda: folder.exists() and committed_steps(folder), 60, "a checkpoint", ranks.said)
    everyone = [*(rank.pid for rank in ranks.processes), *ranks.writers()]
    os.kill(everyone[-1], signal.SIGSTOP)
    eventually(lambda: list(folder.glob("*.1.tmp/rank-00000*")), 20, "a save that is under way", ranks.said)
    for process in everyone:
        os.kill(process, signal.SIGSTOP)
    yield ranks, everyone
    for rank in ranks.processes:  # its writer goes with it
        rank.kill()


def test_a_group_paused_in_mid_save_can_not_commit_when_it_goes_on(
    paused: tuple[Ranks, list[int]], corpus: Path
) -> None:
    older, everyone = paused
    folder = older.output / "checkpoints"
    before = committed_steps(folder)
    newer = Ranks(a_job("pretrain", older.output, SETTINGS, {"data": corpus}), attempt=2)
    newer.succeed()
    assert [report["resumedStep"] for report in newer.reports() if "resumedStep" in report] == [before[-1]]
    steps, made = committed_steps(folder), contents(older.output)
    assert (steps[: len(before)], steps[-1]) == (before, LAST)
    assert {read_manifest(committed(older.output, step)).attempt for step in steps[len(before) :]} == {2}

    for process in everyone:
        os.kill(process, signal.SIGCONT)
    assert older.wait() == [ExitCode.RETRY] * 2, older.said()
    assert "attempt 2 has begun; attempt 1 saves nothing any more" in older.said()
    assert contents(older.output) == made
