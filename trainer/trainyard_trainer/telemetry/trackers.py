"""Weights & Biases and MLflow, which rank 0 tells the same figures as TensorBoard, where the settings ask for them.

Both packages are extras (100 MB each with what they bring), and both send behind training. All attempts of a stage are one run
there, by the run's UID; W&B leaves out steps that are done again. One that fails while training is told so once and no more: a
tracker is no reason to stop. What is wrong when it begins (no package, no key) ends the run, with what to do.
"""

import importlib
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, Protocol

from trainyard_api.telemetry_settings import MlflowSettings, TelemetrySettings, WandbSettings

from ..errors import PermanentError, setting
from ..group import Group


class Tracker(Protocol):
    """A run at a tracker."""

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Take note of a step's values."""

    def close(self) -> None:
        """Send what is not sent yet."""


class Trackers:
    """All that the settings ask for."""

    def __init__(self, settings: TelemetrySettings, group: Group) -> None:
        self._open: dict[str, Tracker] = {}
        if settings.wandb:
            self._open["wandb"] = _begin("wandb", "wandb", lambda: _Wandb(settings.wandb, group))
        if settings.mlflow:
            self._open["mlflow"] = _begin("mlflow", "mlflow", lambda: _Mlflow(settings.mlflow, group))

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Tell each of them."""
        for name, tracker in list(self._open.items()):
            try:
                tracker.log(step, values)
            except Exception as error:
                print(f"telemetry.{name}: told no more after step {step}: {error}", file=sys.stderr)
                del self._open[name]

    def close(self) -> None:
        """The attempt is over."""
        for tracker in self._open.values():
            with suppress(Exception):
                tracker.close()


def _begin(field: str, package: str, begin: Any) -> Tracker:
    try:
        importlib.import_module(package)
    except ImportError:
        raise PermanentError(
            f"{setting(f'telemetry.{field}')}: {package} is not installed; use an image with "
            f"`pip install 'trainyard[{field}]'`, or leave it out"
        ) from None
    try:
        tracker: Tracker = begin()
    except Exception as error:
        raise PermanentError(f"{setting(f'telemetry.{field}')}: {' '.join(str(error).split())}") from error
    return tracker


class _Wandb:
    """https://docs.wandb.ai: with mode Offline the files go to the stage's folder, for `wandb sync`."""

    def __init__(self, settings: WandbSettings, group: Group) -> None:
        import wandb

        self._run = wandb.init(
            project=settings.project,
            entity=settings.entity,
            name=f"{group.job.run}/{group.job.stage}",
            id=f"{group.job.run_uid}-{group.job.stage}",
            resume="allow",
            mode="offline" if settings.mode == "Offline" else "online",
            dir=str(group.output),
            config=group.job.settings,
        )

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log(dict(values), step=step)

    def close(self) -> None:
        self._run.finish()


class _Mlflow:
    """https://mlflow.org: at `trackingUri`, a server's or a folder's (file:///…)."""

    def __init__(self, settings: MlflowSettings, group: Group) -> None:
        from mlflow import MlflowClient
        from mlflow.entities import Metric

        self._metric = Metric
        self._client = MlflowClient(tracking_uri=settings.tracking_uri)
        known = self._client.get_experiment_by_name(settings.experiment)
        experiment = known.experiment_id if known else self._client.create_experiment(settings.experiment)
        tag = f"{group.job.run_uid}-{group.job.stage}"
        before = self._client.search_runs([experiment], f"tags.`trainyard.uid` = '{tag}'", max_results=1)
        name = f"{group.job.run}/{group.job.stage}"
        run = before[0] if before else self._client.create_run(experiment, tags={"trainyard.uid": tag}, run_name=name)
        self._id = run.info.run_id
        self._sent: Any = None

    def log(self, step: int, values: Mapping[str, float]) -> None:
        now = int(time.time() * 1000)
        metrics = [self._metric(name, value, now, step) for name, value in values.items()]
        self._sent = self._client.log_batch(self._id, metrics=metrics, synchronous=False)

    def close(self) -> None:
        if self._sent:
            self._sent.wait()
        self._client.set_terminated(self._id)
