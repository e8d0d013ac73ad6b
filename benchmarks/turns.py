"""The side of a contender's process: it trains a step, says so, and then as many as a line of stdin says.

After each turn a line of stdout has {seconds a step, speed in what is counted a second, real share of positions, seconds waited
for data a step, peak bytes}.
"""

import json
import os
import sys
import time
from pathlib import Path

import torch

_ANSWERS = os.fdopen(os.dup(1), "w", buffering=1)
os.dup2(2, 1)  # whatever else is printed goes to the log


class Turns:
    """Counts the steps of the turn, and waits between two turns."""

    def __init__(self) -> None:
        self._steps = 1
        self._begin()

    def step(self, counted: float, positions: float, waited: float = 0.0) -> None:
        """A step is done, on so much of what is counted, in so many positions."""
        self._counted += counted
        self._positions += positions
        self._waited += waited
        self._done += 1
        if self._done < self._steps:
            return
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        seconds = time.perf_counter() - self._began
        told = {
            "seconds": seconds / self._steps,
            "speed": self._counted / seconds,
            "real": self._counted / self._positions,
            "waited": self._waited / self._steps,
            "peak": _peak_bytes(),
        }
        print(json.dumps(told), file=_ANSWERS)
        self._steps = int(sys.stdin.readline() or os._exit(0))
        self._begin()

    def _begin(self) -> None:
        self._done = 0
        self._counted = self._positions = self._waited = 0.0
        self._began = time.perf_counter()


def _peak_bytes() -> int:
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    [line] = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")]
    return 1024 * int(line.split()[1])
