"""Weights and optimizer state by parameter name, whatever ZeRO stage holds them.

Every rank sees its state as fragments: for a parameter, the part [start, start + length) of its flat elements, as views
into the fp32 master, the first and the second moment. ZeRO 0 has one fragment a parameter, everywhere the same; 1 and 2
cut a flat buffer of all parameters; 3 cuts each parameter. What is written by one layout is read by any other: a reader
asks for ranges of elements. The moments are made here before DeepSpeed's first step would, so nothing is ever
"thrown away to create state".

With tensor parallelism a rank has a slice of some parameters: runs of elements that lie equally far apart. What it holds of
such a slice is a fragment of that.

A frozen parameter has a master and no moments. Its master is the weight as the forward pass has it, so with bf16 rounded
to that, once, when training began. ZeRO 1 and 2 leave it whole on every rank; here each rank answers for an equal part,
so that saving it costs no rank more than another. Tied weights are one parameter, under the first of its names.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.optim import AdamW

MASTER, MOMENTS = "master", ("exp_avg", "exp_avg_sq")


class Runs(NamedTuple):
    """Which elements of a parameter a slice has: `run` from each `first` + n · `stride` on."""

    first: int
    run: int
    stride: int

    @property
    def is_slice(self) -> bool:
        """Whether elements are left out."""
        return self.run != self.stride

    def spans(self, start: int, stop: int) -> Iterator[tuple[int, int]]:
        """The elements [low, high) of the parameter that elements [start, stop) of the slice are, in order."""
        while start < stop:
            number, inside = divmod(start, self.run)
            length = min(stop - start, self.run - inside)
            low = self.first + number * self.stride + inside
            yield low, low + length
            start += length


def whole(elements: int) -> Runs:
    """All of a parameter."""
    return Runs(0, elements, elements)


def slice_of(shape: Sequence[int], own: Sequence[int], index: int) -> Runs:
    """The slice of a parameter that the rank at `index` has, of all that are `own` in shape; the whole, if that is one."""
    sliced = [
        dimension for dimension, (all_of_it, part) in enumerate(zip(shape, own, strict=True)) if all_of_it != part
    ]
    if not sliced:
        return whole(math.prod(shape))
    [dimension] = sliced
    behind = math.prod(shape[dimension + 1 :])
    run, stride = own[dimension] * behind, shape[dimension] * behind
    return Runs(index * run, run, stride)


@dataclass(frozen=True)
class Fragment:
    """This rank's part of one parameter: flat views, equally long, by kind of state. A frozen one has a master alone."""

    name: str
    runs: Runs
    """Of what this rank has of the parameter."""
    start: int
    """In that."""
    state: dict[str, Tensor]

    @property
    def stop(self) -> int:
        return self.start + len(self.state[MASTER])

    @property
    def spans(self) -> list[tuple[int, int]]:
        """The elements of the parameter that it has, in order."""
        return list(self.runs.spans(self.start, self.stop))


class _Part(NamedTuple):
    """Where this rank's part of a parameter lies."""

    flat: Tensor
    """Among what: a buffer, or the parameter itself."""
    offset: int
    """In that."""
    start: int
    """In what this rank has of the parameter."""
    length: int


def fragments(
    module: nn.Module, optimizer: Any, adamw: AdamW, shapes: Mapping[str, Sequence[int]], index: int
) -> Iterator[Fragment]:
    """The fragments that this rank holds. `optimizer` is DeepSpeed's around `adamw`, or `adamw` itself without ZeRO. `shapes`
    are those of whole parameters, of which this rank may have the slice at `index`.
    """
    for name, parameter in module.named_parameters():
        if not (part := _part(parameter, optimizer, adamw)).length:
            continue
        state = {MASTER: part.flat.data} | (_moments(adamw, part.flat) if parameter.requires_grad else {})
        views = {kind: each.view(-1)[part.offset : part.offset + part.length] for kind, each in state.items()}
        own = getattr(parameter, "ds_shape", parameter.shape)
        yield Fragment(name, slice_of(shapes[name], own, index), part.start, views)


def share(total: int, world_size: int, rank: int) -> tuple[int, int]:
    """The part of `total` elements that is a rank's where each gets equally many: the first, and how many. The last ranks
    get fewer, or none."""
    each = math.ceil(total / world_size)
    start = min(each * rank, total)
    return start, min(each, total - start)


def _part(parameter: Any, optimizer: Any, adamw: AdamW) -> _Part:
    """This rank's part of a parameter, by what DeepSpeed has hung on it."""
    if hasattr(parameter, "ds_tensor"):
        start, length = share(parameter.ds_numel, dist.get_world_size(), dist.get_rank())
        if not parameter.requires_grad:
            return _Part(parameter.ds_tensor, 0, start, length)
        group, offset, _ = optimizer.grad_position[optimizer.get_param_id(parameter)]
        return _Part(optimizer.fp32_partitioned_groups_flat[group], offset, start, length)
    if hasattr(parameter, "_hp_mapping"):
        if not (mapping := parameter._hp_mapping):
            return _Part(parameter, 0, 0, 0)
        [flat] = adamw.param_groups[mapping.param_group_index]["params"]
        held = mapping.hp_fragment_address
        return _Part(flat, held.start, mapping.lp_fragment_address.start, held.numel)
    if optimizer is adamw:
        return _Part(parameter, 0, 0, parameter.numel())
    start, length = share(parameter.numel(), dist.get_world_size(), dist.get_rank())
    return _Part(parameter, start, start, length)


def set_steps(adamw: AdamW, steps: int) -> None:
    """Tell AdamW, whose bias correction asks, how many steps it has done."""
    for state in adamw.state.values():
        state["step"].fill_(steps)


def _moments(adamw: AdamW, flat: Tensor) -> dict[str, Tensor]:
    """AdamW's moments of a tensor; before the first step, the zeros that it would begin with."""
    state: dict[str, Tensor] = adamw.state[flat]
    if not state:
        state["step"] = torch.zeros((), device=flat.device)  # where the fused AdamW wants it
        for kind in MOMENTS:
            state[kind] = torch.zeros_like(flat, memory_format=torch.preserve_format)
    return {kind: state[kind] for kind in MOMENTS}
