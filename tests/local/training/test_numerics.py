"""Batches with which numbers go wrong, on two ranks: left out by both before they change anything, counted and told, and
left out for good, whatever happens to the ranks.
"""

import signal
from pathlib import Path
from typing import Any

import pytest
from training import TINY, TINY_GPT2_WITH_DROPOUT, Ranks, a_job, committed_steps, metric_lines, shard_digests
from trainyard_api.exit_codes import ExitCode
from trainyard_api.protocol import Job
from trainyard_trainer.data.mixture import Mixture
from trainyard_trainer.data.objectives.next_token import NextToken
from warm_ranks import WarmRanks

GRADIENTS = "trainyard_trainer.stages.training:Engine.gradients"
SETTINGS: dict[str, Any] = TINY | {
    "model": TINY_GPT2_WITH_DROPOUT | {"config": TINY_GPT2_WITH_DROPOUT["config"] | {"tie_word_embeddings": False}},
    "steps": 9,
    "checkpoint": {"everySteps": 3, "keep": 5},
    "validation": {"everySteps": 100, "sequences": 1},
    "optimizer": {"learningRate": 3e-3},
}
ZERO_2 = {"deepspeed": {"zero_optimization": {"stage": 2}}}
LAYOUTS = {
    "ZeRO 0": {},
    "ZeRO 2": ZERO_2,
    "ZeRO 2 in bf16": {"deepspeed": {"zero_optimization": {"stage": 2}, "bf16": {"enabled": True}}},
}
BAD = {"no_number": [3, 4, 6]}
GOOD = [1, 2, 5, 7, 8, 9, 10, 11, 12]
"""The batches that the nine steps are to be made with."""


def batches(output: Path) -> list[int]:
    """The global batch of each step, of the last attempt that made it."""
    return [*{line["step"]: line["position"] // 8 + 1 for line in metric_lines(output) if "loss" in line}.values()]


def faults(output: Path) -> list[dict[str, Any]]:
    return [line | line["fault"] for line in metric_lines(output) if "fault" in line]


def stopped(job: Job, at_call: int, bad: dict[str, list[int]], attempt: int = 1) -> None:
    """Train until a call of `gradients`, and then stop, with a checkpoint of the step that this is for."""
    ranks = WarmRanks(job, attempt=attempt, hold=GRADIENTS, at_call=at_call, bad=bad)
    ranks.until_held()
    for process in ranks.processes:
        process.send_signal(signal.SIGTERM)
    ranks.release()
    assert ranks.wait() == [ExitCode.STOPPED] * 2, ranks.said()


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS.keys())
def test_bad_batches_are_left_out_and_stay_out(corpus: Path, tmp_path: Path, layout: dict[str, Any]) -> None:
    settings = SETTINGS | layout
    whole = WarmRanks(a_job("pretrain", tmp_path / "whole", settings, {"data": corpus}), bad=BAD)
    whole.succeed()
    assert batches(whole.output) == GOOD
    found = [(each["kind"], each["action"], each["step"], each["position"]) for each in faults(whole.output)]
    assert found == [("NonFinite", "Skip", step, 8 * (batch - 1)) for step, batch in ((3, 3), (3, 4), (4, 6))]
    rows = NextToken(16, begin=0).open(corpus / "train")
    order = Mixture(a_job("pretrain", tmp_path, settings, {}).seed, [1], [len(rows)])
    for each in faults(whole.output):  # those of the one micro-batch that has no number, of eight sequences
        assert each["samples"] == {"corpus": order.samples(each["position"], 2)[1].tolist()}
    progress = [report["progress"] for report in whole.reports() if "progress" in report][-1]
    assert progress["skippedBatches"] == 3
    assert progress["lastFault"].startswith("step 4, sequences 40–41: loss nan")

    job = a_job("pretrain", tmp_path / "stopped", settings, {"data": corpus})
    stopped(job, at_call=11, bad=BAD)
    again = WarmRanks(job, attempt=2, bad=BAD)
    again.succeed()
    assert batches(again.output) == GOOD
    assert shard_digests(again.output, 9) == shard_digests(whole.output, 9)


def test_what_was_left_out_stays_out_on_another_number_of_ranks(corpus: Path, tmp_path: Path) -> None:
    job = a_job("pretrain", tmp_path / "base", SETTINGS | ZERO_2, {"data": corpus})
    stopped(job, at_call=11, bad=BAD)
    then = WarmRanks(job, world_size=1, attempt=2, bad=BAD)
    then.succeed()
    assert batches(then.output) == GOOD
    assert [each["attempt"] for each in faults(then.output)] == [1, 1, 1]


def test_noise_among_text_is_a_spike_also_for_ranks_that_have_just_begun(corpus: Path, tmp_path: Path) -> None:
    spike = {"action": "Skip", "deviations": 4, "window": 8}
    settings = SETTINGS | ZERO_2 | {"steps": 24, "numerics": {"spike": spike}}
    job = a_job("pretrain", tmp_path / "base", settings, {"data": corpus})
    stopped(job, at_call=22, bad={"noise": [23]})
    then = WarmRanks(job, attempt=2, bad={"noise": [23]})
    then.succeed()
    [fault] = faults(then.output)
    assert (fault["kind"], fault["step"], fault["position"]) == ("Spike", 23, 8 * 22)
    assert len(fault["samples"]["corpus"]) == 8
    assert batches(then.output)[-2:] == [24, 25]
    assert {line["attempt"] for line in metric_lines(then.output) if line["step"] > 23} == {2}


STOPS = {
    "the first, where that is wanted": (
        {"nonFinite": "Stop"},
        r"pretrain.numerics: training diverged at step 3: loss nan; samples corpus: ",
    ),
    "one more than may be left out": (
        {"maxFaults": 2},
        r"pretrain.numerics: training diverged at step 4: loss nan; maxFaults = 2 within 1000 steps are used up; samples",
    ),
}


@pytest.mark.parametrize(("numerics", "said"), STOPS.values(), ids=STOPS.keys())
def test_a_run_stops_at_a_bad_batch(corpus: Path, tmp_path: Path, numerics: dict[str, Any], said: str) -> None:
    job = a_job("pretrain", tmp_path / "base", SETTINGS | ZERO_2 | {"numerics": numerics}, {"data": corpus})
    ranks = WarmRanks(job, bad=BAD)
    assert ranks.wait() == [ExitCode.PERMANENT] * 2, ranks.said()
    message = failure(ranks)
    assert message.startswith(said)
    assert message.endswith("lengthen schedule.warmupSteps, set optimizer.clipNorm, or look into these samples")
    assert faults(ranks.output)[-1]["action"] == "Stop"


def test_after_a_roll_back_what_was_passed_over_never_comes_again(corpus: Path, tmp_path: Path) -> None:
    numerics = {"nonFinite": "RollBack", "rollBackSteps": 5}
    settings = SETTINGS | ZERO_2 | {"steps": 16, "checkpoint": {"everySteps": 100}, "numerics": numerics}
    job, bad = a_job("pretrain", tmp_path / "base", settings, {"data": corpus}), {"no_number": [14]}
    stopped(job, at_call=8, bad=bad)
    stopped(job, at_call=4, bad=bad, attempt=2)
    assert committed_steps(tmp_path / "base") == [8, 12]

    back = WarmRanks(job, attempt=3, bad=bad)
    assert back.wait() == [ExitCode.RETRY] * 2, back.said()
    assert failure(back) == "step 14, sequences 104–105: loss nan; back to step 8 or before, and on after batch 14"
    assert {report["failure"]["cause"] for report in back.reports() if "failure" in report} == {"RolledBack"}

    killed = WarmRanks(job, attempt=4, hold=GRADIENTS, at_call=3, bad=bad)
    killed.until_held()
    assert committed_steps(back.output) == [8]
    for process in killed.processes:
        process.kill()
    killed.wait()
    last = WarmRanks(job, world_size=1, attempt=5, bad=bad)
    last.succeed()
    assert [report["resumedStep"] for report in last.reports() if "resumedStep" in report] == [8]
    assert batches(last.output) == [*range(1, 9), *range(15, 23)]
    assert [each["action"] for each in faults(last.output)] == ["RollBack"]


def test_roll_backs_that_lead_nowhere_end(corpus: Path, tmp_path: Path) -> None:
    numerics = {"nonFinite": "RollBack", "maxFaults": 2}
    job = a_job("pretrain", tmp_path / "base", SETTINGS | ZERO_2 | {"numerics": numerics}, {"data": corpus})
    codes = [WarmRanks(job, attempt=attempt, bad={"no_number": [*range(1, 9)]}).wait() for attempt in (1, 2, 3)]
    assert codes == [[ExitCode.RETRY] * 2] * 2 + [[ExitCode.PERMANENT] * 2]
    assert [each["position"] for each in faults(tmp_path / "base")] == [0, 8, 16]


def failure(ranks: Ranks) -> str:
    return next(report["failure"]["message"] for report in ranks.reports() if "failure" in report)
