"""A run that was killed or stopped ends with the same bits as one that wasn't: ranks as the agent starts them, ZeRO-2,
dropout on, so that a lost random number would show.
"""

import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from conditions import eventually
from training import (
    TINY,
    TINY_GPT2_WITH_DROPOUT,
    Ranks,
    a_job,
    committed,
    committed_steps,
    held_out_losses,
    losses,
    shard_digests,
)
from trainyard_api.exit_codes import ExitCode
from warm_ranks import WarmRanks

LAST = 120
SETTINGS: dict[str, Any] = TINY | {
    "model": TINY_GPT2_WITH_DROPOUT,
    "steps": LAST,
    "checkpoint": {"everySteps": 5, "keep": 3},
    "validation": {"everySteps": 60, "sequences": 5},
    "deepspeed": {"zero_optimization": {"stage": 2}},
}


@pytest.fixture(scope="module")
def undisturbed(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Ranks:
    ranks = Ranks(a_job("pretrain", tmp_path_factory.mktemp("run") / "undisturbed", SETTINGS, {"data": corpus}))
    ranks.succeed()
    return ranks


@pytest.mark.parametrize(
    ("sent", "expected"),
    [(signal.SIGKILL, [-signal.SIGKILL] * 2), (signal.SIGTERM, [ExitCode.STOPPED] * 2)],
    ids=["killed", "stopped on request"],
)
def test_a_run_that_ended_early_goes_on_to_the_same_bits(
    undisturbed: Ranks, corpus: Path, tmp_path: Path, sent: signal.Signals, expected: list[int]
) -> None:
    job = a_job("pretrain", tmp_path / "disturbed", SETTINGS, {"data": corpus})
    first = WarmRanks(job)
    eventually(lambda: committed_steps(first.output), 60, "a checkpoint", first.said)
    for process in first.processes:
        process.send_signal(sent)
    assert first.wait() == expected, first.said()
    done = max(losses(first.output))
    saved = max(committed_steps(first.output))
    assert saved <= done < LAST
    assert sent == signal.SIGKILL or saved == done

    second = WarmRanks(job, attempt=2)
    second.succeed()
    [resumed] = [report["resumedStep"] for report in second.reports() if "resumedStep" in report]
    assert resumed == saved
    assert shard_digests(second.output, LAST) == shard_digests(undisturbed.output, LAST)
    assert losses(second.output) == losses(undisturbed.output)
    assert held_out_losses(second.output)[LAST] == held_out_losses(undisturbed.output)[LAST]


def test_progress_tells_all_that_the_status_shows(undisturbed: Ranks) -> None:
    reports = undisturbed.reports()
    assert [report["resumedStep"] for report in reports if "resumedStep" in report] == [0]
    progress = [report["progress"] for report in reports if "progress" in report][-1]
    told = {"step", "steps", "tokens", "loss", "heldOutLoss", "learningRate", "gradNorm", "tokensPerSecond"}
    told |= {"stepSeconds", "etaSeconds", "heartbeatTime", "position", "memoryBytes"}
    assert told == set(progress)
    assert (progress["step"], progress["steps"], progress["tokens"]) == (LAST, LAST, LAST * 8 * 16)
    checkpoints = [report["checkpoint"] for report in reports if "checkpoint" in report]
    saved = [each["step"] for each in checkpoints]
    assert saved == sorted(set(saved))
    assert saved[-1] == LAST
    assert not [step for step in saved if step % 5]
    assert all(each["stallSeconds"] > 0 for each in checkpoints)
    assert checkpoints[-1]["uri"] == f"file://{committed(undisturbed.output, LAST)}"


def test_only_as_many_checkpoints_are_kept_as_asked_for(undisturbed: Ranks) -> None:
    saved = [report["checkpoint"]["step"] for report in undisturbed.reports() if "checkpoint" in report]
    assert committed_steps(undisturbed.output) == saved[-3:]
    assert len(list((undisturbed.output / "checkpoints").glob("step-*"))) == 3


def test_ranks_start_without_chatter(undisturbed: Ranks) -> None:
    assert all(line.startswith("preflight: ") for line in undisturbed.said().splitlines() if line)


def test_the_exported_model_is_the_trained_one(undisturbed: Ranks, corpus: Path, tmp_path: Path) -> None:
    WarmRanks(a_job("export", tmp_path / "export", {"model": "base"}, {"model": undisturbed.output}), 1).succeed()
    from trainyard_trainer.data.objectives.next_token import NextToken
    from trainyard_trainer.data.objectives.objective import Sample
    from trainyard_trainer.data.order import Order
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(tmp_path / "export/model", local_files_only=True)
    objective = NextToken(16, begin=0)
    rows = objective.open(corpus / "held-out")
    measured_on = Order(0, len(rows)).samples(0, 5).tolist()
    batch = objective.batch([Sample(rows, row, row) for row in measured_on])
    with torch.no_grad():
        logits = model(**batch.inputs).logits
    loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), batch.labels.flatten()).item()
    assert loss == pytest.approx(held_out_losses(undisturbed.output)[LAST], abs=1e-6)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "export/model", local_files_only=True)
    assert tokenizer.decode(tokenizer("bam ben\n").input_ids) == "bam ben\n"


def test_evaluation_is_the_same_however_ranks_and_batches_share_it(
    undisturbed: Ranks, corpus: Path, tmp_path: Path
) -> None:
    inputs = {"model": undisturbed.output, "data": corpus}
    settings = {"model": "base", "data": "corpus", "sequenceLength": 16, "samples": {"prompts": ["bam"]}}
    one = WarmRanks(a_job("evaluate", tmp_path / "one", settings | {"microBatch": 3}, inputs), 1)
    two = WarmRanks(a_job("evaluate", tmp_path / "two", settings, inputs), 2)
    one.succeed()
    two.succeed()
    metrics = [each.reports()[-1]["artifact"]["metrics"] for each in (one, two)]
    assert metrics[0] == pytest.approx(metrics[1], rel=1e-6)
    assert (one.output / "report.json").exists()
