"""A policy's weights on their way to those that draw: plain bytes, which Ray shares with all processes of a machine."""

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..engine.engine import Engine
from ..models.critic import CRITIC


class Packed(NamedTuple):
    """A tensor."""

    content: np.ndarray
    """Its bytes."""
    dtype: torch.dtype
    shape: tuple[int, ...]


Weights = dict[str, Packed]
"""By name."""


def weights_of(engine: Engine) -> Weights:
    """The policy's, as its forward pass has them: on rank 0, and nothing on others. A collective."""
    return packed((name, each) for name, each in engine.weights() if not name.startswith(f"{CRITIC}."))


def packed(tensors: Iterable[tuple[str, Tensor]]) -> Weights:
    """Tensors on the CPU."""
    return {
        name: Packed(each.detach().contiguous().view(-1).view(torch.uint8).numpy(), each.dtype, tuple(each.shape))
        for name, each in tensors
    }


def tensors_of(weights: Weights) -> Iterator[tuple[str, Tensor]]:
    """By name, in memory of their own: what Ray shares may not be written to."""
    for name, each in weights.items():
        yield name, torch.from_numpy(each.content.copy()).view(each.dtype).view(each.shape)


@torch.no_grad()
def load(model: Any, weights: Weights) -> None:
    """Into a model that has the same parameters."""
    parameters: dict[str, Tensor] = dict(model.named_parameters())
    if parameters.keys() != weights.keys():
        raise ValueError(f"weights of {sorted(parameters.keys() ^ weights.keys())} don't fit")
    for name, tensor in tensors_of(weights):
        parameters[name].copy_(tensor)
