"""What a rank takes for its own part of a step: to fetch data and for the forward passes, in which it waits for no other rank.

A step as a whole takes all ranks as long as the slowest, so it tells nothing of one. Backward passes exchange gradients on
the way, but a slow disk shows in fetching, and a slow processor or GPU in forward passes as well. With ZeRO 3 these gather
weights, so ranks that are slow in computing look like all others there; slow data still shows.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch


class OwnTime:
    """Seconds of one step. On a GPU by events in its stream, so that nothing waits for the measurement."""

    def __init__(self, device: torch.device) -> None:
        self._on_gpu = device.type == "cuda"
        self._spans: list[tuple[torch.cuda.Event, torch.cuda.Event]] = []
        self._seconds = 0.0

    def begin(self) -> None:
        """A step begins."""
        self._spans, self._seconds = [], 0.0

    @contextmanager
    def counted(self) -> Iterator[None]:
        """The block is the rank's own."""
        if self._on_gpu:
            first, last = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            first.record()
            yield
            last.record()
            self._spans.append((first, last))
        else:
            started = time.perf_counter()
            yield
            self._seconds += time.perf_counter() - started

    @property
    def seconds(self) -> float:
        """Of the step, once the device is done with it."""
        return self._seconds + sum(first.elapsed_time(last) for first, last in self._spans) / 1000
