"""The machines of a group are checked before it trains: one that can't write has its attempt end, and is named."""

import resource
from pathlib import Path

from training import TINY, a_job
from trainyard_api.exit_codes import ExitCode
from warm_ranks import WarmRanks


def test_a_rank_that_can_not_write_is_named_and_one_attempt_later_all_is_well(corpus: Path, tmp_path: Path) -> None:
    job = a_job("pretrain", tmp_path / "base", TINY, {"data": corpus})
    ranks = WarmRanks(job, hold="trainyard_trainer.stages.training:preflight", LOCAL_RANK="0")
    ranks.until_held()
    resource.prlimit(ranks.processes[1].pid, resource.RLIMIT_NOFILE, (3, 3))
    ranks.release()
    assert ranks.wait() == [ExitCode.RETRY] * 2, ranks.said()
    failures = {each["failure"]["rank"]: each["failure"] for each in ranks.reports() if "failure" in each}
    assert {rank: failure["cause"] for rank, failure in failures.items()} == {0: "PeerLost", 1: "PreflightFailed"}
    assert "Too many open files" in failures[1]["message"]
    assert failures[0]["message"] == f"the preflight of rank 1 failed: {failures[1]['message']}"

    again = WarmRanks(job, attempt=2)
    again.succeed()
    [figures] = [each["metrics"] for each in again.reports() if "preflight_seconds" in each.get("metrics", {})]
    assert figures["preflight_bytes_per_second"] > 0
    assert figures["preflight_clock_skew_seconds"] < 60
    assert not list(ranks.output.glob(".preflight*"))
