"""What a rank's step is spent on: data, forward, backward, optimizer, waiting for a checkpoint's snapshot, waiting for others;
where it learns from its own responses also drawing them (or waiting for those that do), saying how good they are, and giving
weights to those that draw.

Data and forward are the rank's own: it waits for no other rank in them. A step as a whole takes all ranks as long as the
slowest, so it tells nothing of one; a slow disk shows in data, a slow processor or GPU in forward as well. Backward passes
exchange gradients on the way, and ZeRO's optimizer step weights. With ZeRO 3 forward passes gather weights, so ranks that are
slow in computing look like all others there; slow data still shows.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import torch

Part = Literal["data", "generate", "score", "push", "forward", "backward", "optimizer", "checkpoint", "wait"]
_ON_HOST = ("data", "push", "checkpoint", "wait")


class StepTimes:
    """Seconds of one step. What a GPU does is measured by events in its stream, so that nothing waits for the measurement."""

    def __init__(self, device: torch.device) -> None:
        self._on_gpu = device.type == "cuda"
        self._spans: list[tuple[Part, torch.cuda.Event, torch.cuda.Event]] = []
        self._seconds: dict[Part, float] = {}

    def begin(self) -> None:
        """A step begins."""
        self._spans, self._seconds = [], {}

    @contextmanager
    def of(self, part: Part) -> Iterator[None]:
        """The block is this part of the step."""
        if self._on_gpu and part not in _ON_HOST:
            first, last = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            first.record()
            yield
            last.record()
            self._spans.append((part, first, last))
        else:
            started = time.perf_counter()
            yield
            self._seconds[part] = self._seconds.get(part, 0.0) + time.perf_counter() - started

    def read(self) -> dict[Part, float]:
        """Seconds by part, of the step so far; on a GPU once it is done with them."""
        seconds = dict(self._seconds)
        for part, first, last in self._spans:
            last.synchronize()
            seconds[part] = seconds.get(part, 0.0) + first.elapsed_time(last) / 1000
        return seconds


def own_seconds(times: dict[Part, float]) -> float:
    """Of a step's times, what the rank waits for no other one in."""
    return times.get("data", 0.0) + times.get("forward", 0.0)
