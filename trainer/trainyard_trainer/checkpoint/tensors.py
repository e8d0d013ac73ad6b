"""Reading shards: a rank's fragments and random streams, in one safetensors file each. `snapshot` lays them out.

master/<parameter>, exp_avg/<parameter>, exp_avg_sq/<parameter>    flat fp32, the elements from `starts` on
stream/<name>                                                      this rank's random streams
metadata: starts                                                   JSON, parameter → first element of the fragment
"""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor


class Shards:
    """The shards of one checkpoint together, as whole tensors or any range of them."""

    def __init__(self, paths: list[Path]) -> None:
        self._files: list[Any] = [safe_open(path, framework="pt") for path in paths]
        self._starts = [json.loads(file.metadata()["starts"]) for file in self._files]

    def read(self, kind: str, name: str, start: int, stop: int) -> Tensor:
        """Elements [start, stop) of a parameter's state of `kind`, flat fp32; KeyError if a part isn't there."""
        values = torch.empty(stop - start)
        filled = 0
        for file, starts in zip(self._files, self._starts, strict=True):
            if name not in starts:
                continue
            part = file.get_slice(f"{kind}/{name}")
            first = starts[name]
            low, high = max(start, first), min(stop, first + part.get_shape()[0])
            if low < high:
                values[low - start : high - start] = part[low - first : high - first]
                filled += high - low
        if filled != stop - start:
            raise KeyError(f"{kind}/{name}: {filled} of the elements {start} to {stop}")
        return values

    def streams(self, rank: int) -> dict[str, Tensor]:
        """The random streams of the rank that wrote shard `rank`."""
        file = self._files[rank]
        return {
            key.removeprefix("stream/"): file.get_tensor(key)
            for key in sorted(file.keys())
            if key.startswith("stream/")
        }
