"""The same status in a table, in lines, in columns and as a curve."""

import io
import json
from datetime import UTC, datetime
from pathlib import Path

import pytest
from rich.console import Console
from trainyard_api.status import CheckpointStatus, Phase, Progress, Reason, Recovery, StageStatus, Status
from trainyard_operator.cli import words
from trainyard_operator.cli.get import render
from trainyard_operator.cli.plot import draw, read_curve
from trainyard_operator.cli.plot_judged import draw_judged
from trainyard_operator.cli.views import PlainView, table_of

RECOVERED = Recovery(
    time="2026-11-24T12:00:00Z",
    cause=Reason.PROCESS_FAILED,
    message="pod tiny-base-1-2: exit code 137",
    stage="base",
    attempt=2,
    tier="pod",
    detect_seconds=0.42,
    reform_seconds=9.3,
    resumed_step=20,
    restored_from="memory",
    recomputed_steps=7,
)
TRAINING = Status(
    phase=Phase.RUNNING,
    reason=Reason.TRAINING,
    stage="base",
    attempt=3,
    progress=Progress(step=40, steps=60, loss=6.5, held_out_loss=6.6, tokens_per_second=12345.6, eta_seconds=130),
    checkpoint=CheckpointStatus(step=40, uri="file:///s/step-40", time="2026-11-24T12:00:00Z"),
    recoveries=(RECOVERED,),
    stages=(
        StageStatus(name="corpus", phase="Succeeded", artifact="file:///s/corpus"),
        StageStatus(name="base", phase="Running"),
        StageStatus(name="model"),
    ),
)


def test_the_live_table_has_a_row_a_stage_and_the_clocks_of_recoveries() -> None:
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(table_of("tiny", TRAINING))
    text = console.export_text()
    for expected in ("corpus", "Succeeded", "40/60", "6.500", "6.600", "12,346", "2m10s", "model", "Pending"):
        assert expected in text
    clocks = "detected in 0.4 s, running again after 9.3 s, resumed from step 20 in memory, 7 steps computed again"
    assert f"(pod made anew, {clocks})" in text


def test_plain_lines_say_each_change_once(capsys: pytest.CaptureFixture[str]) -> None:
    view = PlainView()
    view.show(TRAINING, TRAINING)
    first = capsys.readouterr().out
    assert "base: Running (Training)" in first
    assert "base: step 40/60, loss 6.500, held-out loss 6.600, 12,346 tokens/s, 2m10s left" in first
    view.show(TRAINING, TRAINING)
    assert capsys.readouterr().out == ""
    view.show(TRAINING.model_copy(update={"phase": Phase.RECOVERING, "reason": Reason.HUNG}), TRAINING)
    [line] = capsys.readouterr().out.splitlines()
    assert line.endswith("base: Recovering (Hung)")


DURATIONS = {0: "0s", 59.9: "59s", 61: "1m1s", 3600: "1h", 3661: "1h1m", 90000: "1d1h", -5: "0s"}


@pytest.mark.parametrize(("seconds", "text"), DURATIONS.items())
def test_durations_have_two_units_at_most(seconds: float, text: str) -> None:
    assert words.duration(seconds) == text


def test_get_prints_the_columns_of_kubectl() -> None:
    metadata = {"name": "tiny", "namespace": "default", "creationTimestamp": "2026-11-24T12:00:00Z"}
    run = {"metadata": metadata, "status": TRAINING.wire()}
    now = datetime(2026, 11, 24, 12, 3, 5, tzinfo=UTC)
    head, row = render([run], None, now).splitlines()
    assert head.split() == [
        "NAME",
        "STAGE",
        "PHASE",
        "REASON",
        "STEP",
        "LOSS",
        "CHECKPOINT",
        "RESTARTS",
        "WORKERS",
        "AGE",
    ]
    assert row.split() == ["tiny", "base", "Running", "Training", "40", "6.5", "40", "0", "0", "3m5s"]
    assert json.loads(render([run], "json", now)) == run
    assert "ATTEMPT" in render([run], "wide", now)


def test_steps_that_were_computed_again_count_as_the_later_attempt_had_them(tmp_path: Path) -> None:
    rows = [
        {"attempt": 2, "step": 1, "loss": 7.0, "tokens": 512},
        {"attempt": 2, "step": 2, "loss": 6.9, "tokens": 1024},
        {"attempt": 2, "step": 2, "held_out_loss": 6.95},
        {"attempt": 3, "step": 2, "loss": 6.8, "tokens": 1024},
        {"attempt": 3, "step": 3, "loss": 6.7, "tokens": 1536},
    ]
    curve = read_curve("".join(json.dumps(row) + "\n" for row in rows) + '{"attempt": 3, "st')
    assert curve.loss == {1: 7.0, 2: 6.8, 3: 6.7}
    assert curve.held_out == {2: 6.95}
    assert curve.resumed == [2]
    draw(curve, "tiny: base", tmp_path / "loss.png")
    assert (tmp_path / "loss.png").read_bytes().startswith(b"\x89PNG")


def test_what_is_said_of_a_reward_model_is_a_picture(tmp_path: Path) -> None:
    calibration = [{"from": 0.5, "to": 0.55, "pairs": 3, "sure": 0.52, "right": 0.6}]
    by_length = [{"from": -4, "to": 2, "pairs": 3, "accuracy": 0.6, "low": 0.2, "high": 0.9}]
    judged = {"accuracy": 0.6, "pairs": 3.0, "calibration": calibration, "by_length": by_length}
    draw_judged({"votes": judged, "more": {**judged, "length_bias": 0.1}}, "tiny: judge", tmp_path / "judged.png")
    assert (tmp_path / "judged.png").read_bytes().startswith(b"\x89PNG")
