"""The prepare stage as a process of its agent: what it reports, and how it stops."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from preparing import MANY, a_prepare_job, put
from trainyard_api.exit_codes import ExitCode
from trainyard_api.protocol import Report


@contextmanager
def a_rank(storage: Path) -> Iterator[tuple[subprocess.Popen[bytes], Iterator[Report]]]:
    """The stage on `in` as an agent starts it, and what it reports."""
    reports, to_agent = os.pipe()
    environment = {
        **os.environ,
        "TRAINYARD_JOB": a_prepare_job(storage, {"sources": [{"path": "in"}]}).model_dump_json(by_alias=True),
        "TRAINYARD_ATTEMPT": "1",
        "TRAINYARD_REPORT_FD": str(to_agent),
        "RANK": "0",
        "WORLD_SIZE": "1",
        "LOCAL_RANK": "0",
    }
    rank = subprocess.Popen([sys.executable, "-m", "trainyard_trainer.rank"], env=environment, pass_fds=[to_agent])
    os.close(to_agent)
    try:
        with os.fdopen(reports) as lines:
            yield rank, map(Report.model_validate_json, lines)
    finally:
        rank.kill()
        rank.wait()


def test_progress_counts_and_artifact_are_reported(tmp_path: Path) -> None:
    put(tmp_path / "in", MANY)
    with a_rank(tmp_path) as (rank, lines):
        reports = list(lines)
        assert rank.wait(timeout=20) == ExitCode.DONE
    last = [report.progress for report in reports if report.progress][-1]
    assert (last.step, last.steps) == (30, 30)
    assert (last.message or "").startswith("tokenising: ")
    metrics, artifact = reports[-2].metrics, reports[-1].artifact
    assert artifact
    assert artifact.metrics == metrics
    assert artifact.metrics["documents"] == artifact.metrics["documents_kept"] == 30


def test_a_stop_ends_it_at_once_and_leaves_no_artifact(tmp_path: Path) -> None:
    put(tmp_path / "in", {"rows.jsonl": "".join(f'{{"text": "row {number}"}}\n' for number in range(500_000))})
    with a_rank(tmp_path) as (rank, reports):
        progress = next(reports).progress
        assert progress
        assert (progress.message or "").startswith("reading: 1 files")
        rank.send_signal(signal.SIGTERM)
        assert rank.wait(timeout=20) == ExitCode.STOPPED
    assert list((tmp_path / "out").iterdir()) == []
