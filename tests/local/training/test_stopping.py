"""SIGTERM at any time: with nothing to save a rank leaves at once; else all ranks agree, save, and leave together with 20."""

import os
import signal
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from conditions import eventually
from training import TINY, Ranks, a_job, committed_steps, losses, shard_digests
from trainyard_api.exit_codes import ExitCode
from trainyard_api.protocol import Job
from warm_ranks import WarmRanks

LAST = 12
SETTINGS: dict[str, Any] = TINY | {
    "steps": LAST,
    "checkpoint": {"everySteps": 4, "keep": 10},
    "validation": {"everySteps": 4, "sequences": 40},
    "deepspeed": {"zero_optimization": {"stage": 2}},
}
EVALUATE = {"model": "base", "data": "corpus", "sequenceLength": 16, "microBatch": 1}
STAGES = "trainyard_trainer.stages"
TRAIN_STEP = f"{STAGES}.training:Engine.gradients"


@pytest.fixture(scope="module")
def trained(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Ranks:
    """Ranks that nobody has stopped."""
    ranks = WarmRanks(a_job("pretrain", tmp_path_factory.mktemp("run") / "base", SETTINGS, {"data": corpus}))
    ranks.succeed()
    return ranks


def tell(ranks: Ranks, *told: int) -> None:
    """Ask these ranks to stop; all of them if none is named."""
    for rank in told or range(len(ranks.processes)):
        ranks.processes[rank].send_signal(signal.SIGTERM)


STOPPED = [ExitCode.STOPPED] * 2
AT_ONCE = {
    "before the ranks are connected": ("pretrain", f"{STAGES}.training:processes.join", (), STOPPED),
    "while data are opened": ("pretrain", "trainyard_trainer.data.objectives.next_token:NextToken.open", (), STOPPED),
    "while the model is built": ("pretrain", "trainyard_trainer.models.origin:build_model", (), STOPPED),
    "while a checkpoint is looked for": ("pretrain", f"{STAGES}.training:Checkpoints.newest", (), STOPPED),
    "in the first step": ("pretrain", TRAIN_STEP, (), STOPPED),
    "when one rank alone is told, its peer loses it": (
        "pretrain",
        TRAIN_STEP,
        (1,),
        [ExitCode.RETRY, ExitCode.STOPPED],
    ),
    "in an evaluation": ("evaluate", f"{STAGES}.evaluate:SlidingWindows.batch", (), STOPPED),
    "in an export": ("export", f"{STAGES}.export:shutil.copytree", (), STOPPED[:1]),
}


@pytest.mark.parametrize(("kind", "place", "told", "codes"), AT_ONCE.values(), ids=AT_ONCE.keys())
def test_with_nothing_to_save_a_rank_leaves_at_once(
    trained: Ranks, corpus: Path, tmp_path: Path, kind: str, place: str, told: tuple[int, ...], codes: list[int]
) -> None:
    settings = {"pretrain": SETTINGS, "evaluate": EVALUATE, "export": {"model": "base"}}[kind]
    inputs = {"model": trained.output, "data": corpus} if kind != "pretrain" else {"data": corpus}
    ranks = WarmRanks(a_job(kind, tmp_path / "out", settings, inputs), len(codes), hold=place)
    ranks.until_held()
    tell(ranks, *told)
    if told:
        ranks.release(*{0, 1} - {*told})
    assert ranks.wait(20) == codes, ranks.said()
    assert committed_steps(ranks.output) == []
    assert not (ranks.output / "artifact.json").exists()


def test_a_rank_leaves_also_while_it_waits_for_one_that_never_comes(corpus: Path, tmp_path: Path) -> None:
    ranks = WarmRanks(a_job("pretrain", tmp_path / "out", SETTINGS, {"data": corpus}))
    ranks.processes[1].send_signal(signal.SIGSTOP)
    port = f":{ranks.port:04X} "
    eventually(lambda: port in Path("/proc/net/tcp").read_text() + Path("/proc/net/tcp6").read_text(), 60, "a store")
    tell(ranks, 0)
    assert ranks.processes[0].wait(20) == ExitCode.STOPPED
    ranks.processes[1].kill()


def resumed(job: Job, attempt: int = 2) -> int:
    """The step that the next attempt goes on from, to the end."""
    ranks = WarmRanks(job, attempt=attempt)
    ranks.succeed()
    return next(int(report["resumedStep"]) for report in ranks.reports() if "resumedStep" in report)


AGREED = {
    "between two saves": (TRAIN_STEP, 6, 6),
    "while a batch is waited for": (f"{STAGES}.training:Ahead.micro_batches", 6, 6),
    "at the last step": (TRAIN_STEP, LAST, LAST),
    "in a validation": (f"{STAGES}.training:Engine.measure", 3, 4),
    "in the validation of the last step": (f"{STAGES}.training:Engine.measure", 23, LAST),
}
"""What a rank is held in, at which call, and the step that is saved then. A validation is 10 calls."""


@pytest.mark.parametrize(("place", "at_call", "step"), AGREED.values(), ids=AGREED.keys())
def test_ranks_save_and_leave_together_though_one_alone_is_told(
    trained: Ranks, corpus: Path, tmp_path: Path, place: str, at_call: int, step: int
) -> None:
    job = a_job("pretrain", tmp_path / "out", SETTINGS, {"data": corpus})
    ranks = WarmRanks(job, hold=place, at_call=at_call)
    ranks.until_held()
    tell(ranks, 1)
    ranks.release()
    assert ranks.wait(20) == STOPPED, ranks.said()
    assert f"stopped: checkpoint of step {step} is committed" in ranks.said()
    assert max(committed_steps(ranks.output)) == max(losses(ranks.output)) == step
    assert resumed(job) == step
    assert shard_digests(ranks.output, LAST) == shard_digests(trained.output, LAST)


def test_a_stop_while_the_last_save_is_waited_for_does_not_cut_it(trained: Ranks, corpus: Path, tmp_path: Path) -> None:
    job = a_job("pretrain", tmp_path / "out", SETTINGS, {"data": corpus})
    ranks = WarmRanks(job, hold=TRAIN_STEP, at_call=LAST)
    ranks.until_held()
    for writer in ranks.writers():
        os.kill(writer, signal.SIGSTOP)
    ranks.release()
    eventually(lambda: signs_of_life(ranks, LAST) > 3, 30, "signs of life while the save is waited for", ranks.said)
    tell(ranks)
    for writer in ranks.writers():
        os.kill(writer, signal.SIGCONT)
    assert ranks.wait(20) == STOPPED, ranks.said()
    assert max(committed_steps(ranks.output)) == LAST
    assert resumed(job) == LAST
    assert shard_digests(ranks.output, LAST) == shard_digests(trained.output, LAST)


def signs_of_life(ranks: Ranks, step: int) -> int:
    """How often progress was reported at this step."""
    return sum(report.get("progress", {}).get("step") == step for report in ranks.reports())


def test_when_the_grace_period_is_too_short_the_checkpoint_before_stands(
    trained: Ranks, corpus: Path, tmp_path: Path
) -> None:
    job = a_job("pretrain", tmp_path / "out", SETTINGS, {"data": corpus})
    earlier = WarmRanks(job, hold=TRAIN_STEP, at_call=6)
    earlier.until_held()
    tell(earlier)
    earlier.release()
    assert earlier.wait(20) == STOPPED, earlier.said()
    before = committed_steps(earlier.output)

    ranks = WarmRanks(job, attempt=2, hold=TRAIN_STEP, at_call=2)
    ranks.until_held()
    writer = ranks.writers()[0]
    os.kill(writer, signal.SIGSTOP)
    tell(ranks)
    ranks.release()
    eventually(lambda: list(ranks.output.glob("checkpoints/*8*/rank-00001*")), 20, "a last save", ranks.said)
    for process in ranks.processes:
        process.kill()
    assert ranks.wait(20) == [-signal.SIGKILL] * 2
    with suppress(ProcessLookupError):  # stopped before it had asked to end with its rank
        os.kill(writer, signal.SIGKILL)
    assert committed_steps(ranks.output) == before
    assert resumed(job, attempt=3) == before[-1] == 6
    assert shard_digests(ranks.output, LAST) == shard_digests(trained.output, LAST)
