"""What a rank tells of itself, and how often."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
from training import TINY, a_job
from trainyard_trainer import pulse
from trainyard_trainer.group import Group


@pytest.fixture
def told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):  # type: ignore[no-untyped-def]
    """What has been reported so far."""
    file = tmp_path / "reports"
    monkeypatch.setenv("TRAINYARD_REPORT_FD", str(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND)))
    return lambda: [json.loads(line)["beat"] for line in file.read_text().splitlines()]


def a_pulse(folder: Path) -> pulse.Pulse:
    job = a_job("pretrain", folder / "base", TINY, {})
    return pulse.Pulse(Group(job, 1, 0, 1, 0, folder / "base", {}))


def test_a_change_is_told_at_once_and_the_same_again_once_a_second(tmp_path: Path, told: Any) -> None:
    here = a_pulse(tmp_path)
    here.beat("restoring")
    for step in range(1, 100):
        here.step(step)
    here.beat("saving")
    beats = told()
    assert [beat["activity"] for beat in beats] == ["restoring", "working", "saving"]
    assert [beat.get("step", 0) for beat in beats] == [0, 1, 99]


def test_a_pace_is_a_median_of_many_steps(tmp_path: Path, told: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pulse, "SECONDS", 0)
    monkeypatch.setattr(pulse, "PACE_SECONDS", 0)
    here = a_pulse(tmp_path)
    for step, seconds in enumerate([0.1] * 30 + [9.0] * 9 + [0.2], start=1):
        here.step(step, seconds)
    assert [beat["pace"] for beat in told() if "pace" in beat] == pytest.approx([0.1, 0.15])


def test_many_quick_steps_are_no_pace_before_some_seconds_are_over(
    tmp_path: Path, told: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1000.0
    monkeypatch.setattr(pulse.time, "monotonic", lambda: now)
    here = a_pulse(tmp_path)
    for step in range(1, 2001):
        now += 0.01
        here.step(step, 0.01 if step <= 1000 else 0.02)
    paces = [beat["pace"] for beat in told() if "pace" in beat]
    assert paces == pytest.approx([0.01]), "1,000 steps are ten seconds"
