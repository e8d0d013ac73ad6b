"""Weights & Biases and MLflow: the packages are extras, so their absence is the common case."""

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from training import TINY, a_job
from trainyard_api.telemetry_settings import TelemetrySettings
from trainyard_trainer.errors import PermanentError
from trainyard_trainer.group import Group
from trainyard_trainer.telemetry.trackers import Trackers

WANTED: dict[str, dict[str, Any]] = {
    "wandb": {"project": "p", "mode": "Offline"},
    "mlflow": {"trackingUri": "file:///nowhere", "experiment": "e"},
}


def a_group(folder: Path) -> Group:
    output = folder / "base"
    output.mkdir()
    return Group(a_job("pretrain", output, TINY, {}), 1, 0, 1, 0, output, {})


@pytest.mark.parametrize("name", [name for name in WANTED if not find_spec(name)])
def test_a_tracker_that_is_not_installed_ends_the_run_with_the_remedy(name: str, tmp_path: Path) -> None:
    settings = TelemetrySettings.read({name: WANTED[name]})
    with pytest.raises(PermanentError, match=rf"pretrain.telemetry.{name}: .*pip install 'trainyard\[{name}\]'"):
        Trackers(settings, a_group(tmp_path))


@pytest.mark.skipif(not find_spec("wandb"), reason="trainyard[wandb] is not installed")
def test_wandb_offline_writes_beside_the_artifact(tmp_path: Path) -> None:
    group = a_group(tmp_path)
    trackers = Trackers(TelemetrySettings.read({"wandb": WANTED["wandb"]}), group)
    trackers.log(1, {"loss": 2.5})
    trackers.close()
    [run] = group.output.glob("wandb/offline-run-*/*.wandb")
    assert run.stat().st_size > 100


@pytest.mark.skipif(not find_spec("mlflow"), reason="trainyard[mlflow] is not installed")
def test_attempts_are_one_run_of_mlflow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    group = a_group(tmp_path)
    settings = TelemetrySettings.read({"mlflow": {"trackingUri": f"file://{tmp_path}/tracked", "experiment": "e"}})
    for step in (1, 2):
        trackers = Trackers(settings, group)
        trackers.log(step, {"loss": 2.5 / step, "seconds/data": 0.1})
        trackers.close()
    [losses] = (tmp_path / "tracked").glob("*/*/metrics/loss")
    assert [json.loads(line.split()[1]) for line in losses.read_text().splitlines()] == [2.5, 1.25]
