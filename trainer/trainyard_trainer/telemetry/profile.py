"""`profile: {steps: [10, 15]}`: what rank 0 does in these steps, operator by operator, by torch's profiler.

    profile/trace.json.gz     the time line, for chrome://tracing or ui.perfetto.dev
    profile/operators.json    {steps, operators: [{name, calls, cpu_seconds, gpu_seconds}]}, each without what it calls itself
    profile/operators.txt     the same as a table

An attempt that resumes between the two steps profiles what is left of them. Storage that fails costs the profile alone.
"""

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from torch.profiler import ProfilerActivity, profile, supported_activities
from trainyard_api.telemetry_settings import ProfileSettings

from ..group import Group

_ROWS = 40
"""Of the table."""


class Profile:
    """Begins and ends by itself as the steps go by."""

    def __init__(self, settings: ProfileSettings | None, group: Group) -> None:
        self._steps = range(settings.steps[0], settings.steps[1] + 1) if settings and not group.rank else range(0)
        self._group = group
        self._running: Any = None

    def before(self, step: int) -> None:
        """This step is about to begin; a batch that was left out may have come before."""
        if step in self._steps and self._running is None:
            wanted = {ProfilerActivity.CPU, ProfilerActivity.CUDA} & supported_activities()
            self._running = profile(activities=wanted, acc_events=True)
            self._running.__enter__()

    def after(self, step: int) -> None:
        """This step is done."""
        if self._running is not None and step == self._steps[-1]:
            self._running.__exit__(None, None, None)
            try:
                self._write()
            except OSError as error:
                print(f"the profile can't be written: {error}", file=sys.stderr)
            self._running = None

    def _write(self) -> None:
        averages = self._running.key_averages()
        operators = [
            {
                "name": each.key,
                "calls": each.count,
                "cpu_seconds": each.self_cpu_time_total / 1e6,
                "gpu_seconds": each.self_device_time_total / 1e6,
            }
            for each in averages
        ]
        on_gpu = any(each["gpu_seconds"] for each in operators)
        order = "self_device_time_total" if on_gpu else "self_cpu_time_total"
        operators.sort(key=lambda each: -each["gpu_seconds" if on_gpu else "cpu_seconds"])
        told = {"steps": [self._steps[0], self._steps[-1]], "operators": operators}
        with tempfile.TemporaryDirectory() as folder:
            trace = Path(folder) / "trace.json.gz"
            self._running.export_chrome_trace(str(trace))
            files = {
                "trace.json.gz": trace.read_bytes(),
                "operators.json": json.dumps(told, indent=1).encode(),
                "operators.txt": averages.table(sort_by=order, row_limit=_ROWS).encode(),
            }
        for name, content in files.items():
            self._group.storage.write(f"profile/{name}", content)
