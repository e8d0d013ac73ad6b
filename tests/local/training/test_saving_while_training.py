"""Killing whoever writes, and whoever is written for, while a checkpoint is on its way: the bits at the end are the same."""

import os
import random
import signal
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from conditions import eventually
from mounts import mounted
from training import TINY, TINY_GPT2_WITH_DROPOUT, Ranks, a_job, committed, committed_steps, losses, shard_digests
from trainyard_api.exit_codes import ExitCode
from warm_ranks import WarmRanks

LAST = 200
SETTINGS: dict[str, Any] = TINY | {
    "model": TINY_GPT2_WITH_DROPOUT,
    "steps": LAST,
    "checkpoint": {"everySteps": 10},
    "validation": {"everySteps": 100, "sequences": 5},
    "deepspeed": {"zero_optimization": {"stage": 2}},
}


@pytest.fixture(scope="module")
def undisturbed(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Ranks:
    ranks = WarmRanks(a_job("pretrain", tmp_path_factory.mktemp("run") / "undisturbed", SETTINGS, {"data": corpus}))
    ranks.succeed()
    return ranks


def step_of(ranks: Ranks) -> int:
    path = ranks.output / "metrics.jsonl"
    return max(losses(ranks.output), default=0) if path.exists() else 0


def newest(ranks: Ranks) -> int:
    return max(committed_steps(ranks.output), default=0)


def test_writers_that_are_killed_again_and_again_cost_checkpoints_and_nothing_else(
    undisturbed: Ranks, corpus: Path, tmp_path: Path
) -> None:
    seed = random.randrange(1_000_000)
    print(f"seed {seed}")
    draw = random.Random(seed)
    ranks = WarmRanks(a_job("pretrain", tmp_path / "disturbed", SETTINGS, {"data": corpus}))
    eventually(lambda: step_of(ranks) > 1, 60, "training", ranks.said)
    kills = 0
    while step_of(ranks) < LAST - 60 and ranks.processes[0].poll() is None:
        if writers := ranks.writers():
            with suppress(ProcessLookupError):  # it has just written all that it had to
                os.kill(draw.choice(writers), signal.SIGKILL)
                kills += 1
        time.sleep(draw.uniform(0, 0.2))
    ranks.succeed()
    gauges = [report["metrics"] for report in ranks.reports() if "metrics" in report][-1]
    assert kills
    assert gauges["checkpoint_failed"] > 0
    assert shard_digests(ranks.output, LAST) == shard_digests(undisturbed.output, LAST)
    assert losses(ranks.output) == losses(undisturbed.output)


def test_a_rank_killed_while_a_checkpoint_is_written_resumes_from_the_one_before(
    undisturbed: Ranks, corpus: Path, tmp_path: Path
) -> None:
    job = a_job("pretrain", tmp_path / "disturbed", SETTINGS, {"data": corpus})
    first = WarmRanks(job)
    eventually(lambda: newest(first), 60, "a checkpoint", first.said)
    writers = first.writers()
    os.kill(writers[1], signal.SIGSTOP)
    eventually(lambda: unfinished(first), 20, "a background write", first.said)
    before = newest(first)
    first.processes[1].kill()
    assert first.wait() == [ExitCode.RETRY, -signal.SIGKILL], first.said()
    assert newest(first) == before
    eventually(lambda: not any(is_writer(each) for each in writers), 10, "the writers' end")

    second = WarmRanks(job, attempt=2)
    second.succeed()
    assert [report["resumedStep"] for report in second.reports() if "resumedStep" in report] == [before]
    assert shard_digests(second.output, LAST) == shard_digests(undisturbed.output, LAST)
    assert losses(second.output) == losses(undisturbed.output)


def test_storage_that_becomes_read_only_is_told_and_outlived(undisturbed: Ranks, corpus: Path, tmp_path: Path) -> None:
    job = a_job("pretrain", tmp_path / "disturbed", SETTINGS, {"data": corpus})
    folder = tmp_path / "disturbed/checkpoints"
    folder.mkdir(parents=True)
    with mounted(folder) as remount:
        ranks = WarmRanks(job)
        eventually(lambda: newest(ranks), 60, "a checkpoint", ranks.said)
        eventually(lambda: remount("ro"), 10, "a moment in which nothing is written")
        eventually(lambda: any("Read-only" in said for said in messages(ranks)), 20, "word of it", ranks.said)
        assert remount("rw")
        ranks.succeed()
        assert shard_digests(ranks.output, LAST) == shard_digests(undisturbed.output, LAST)
    assert messages(ranks)[-1] == ""


def unfinished(ranks: Ranks) -> list[Path]:
    """Shards of rank 0 of which there is no checkpoint, at least not yet."""
    shards = ranks.output.glob("checkpoints/step-*/rank-00000*")
    return [shard for shard in shards if not shard.with_name("manifest.json").exists()]


def messages(ranks: Ranks) -> list[str]:
    """What the status says beside the progress, report by report."""
    return [report["progress"].get("message", "") for report in ranks.reports() if "progress" in report]


def is_writer(process: int) -> bool:
    """Whether such a process is there, and alive."""
    try:
        return b"checkpoint.writer" in Path(f"/proc/{process}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_an_undisturbed_run_reports_what_saving_costs(undisturbed: Ranks) -> None:
    reports = undisturbed.reports()
    checkpoints = [report["checkpoint"] for report in reports if "checkpoint" in report]
    assert checkpoints[-1]["step"] == LAST
    assert all(each["durableSeconds"] > 0 and each["stallSeconds"] > 0 for each in checkpoints)
    gauges = [report["metrics"] for report in reports if "metrics" in report][-1]
    assert gauges["checkpoint_failed"] == 0
    shard = committed(undisturbed.output, LAST) / "rank-00000.safetensors"
    assert gauges["checkpoint_buffer_bytes"] == shard.stat().st_size
