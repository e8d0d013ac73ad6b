"""Weights and optimizer state by parameter name, whatever ZeRO stage holds them.

Every rank sees its state as fragments: for a parameter, the part [start, start + length) of its flat elements, as views
into the fp32 master, the first and the second moment. ZeRO 0 has one fragment a parameter, everywhere the same; 1 and 2
cut a flat buffer of all parameters; 3 cuts each parameter. What is written by one layout is read by any other: a reader
asks for ranges of elements. The moments are made here before DeepSpeed's first step would, so nothing is ever
"thrown away to create state".

A frozen parameter has a master and no moments. Its master is the weight as the forward pass has it, so with bf16 rounded
to that, once, when training began. ZeRO 1 and 2 leave it whole on every rank; here each rank answers for an equal part,
so that saving it costs no rank more than another. Tied weights are one parameter, under the first of its names.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.optim import AdamW

MASTER, MOMENTS = "master", ("exp_avg", "exp_avg_sq")


@dataclass(frozen=True)
class Fragment:
    """This rank's part of one parameter: flat views, equally long, by kind of state. A frozen one has a master alone."""

    name: str
    start: int
    state: dict[str, Tensor]

    @property
    def stop(self) -> int:
        return self.start + len(self.state[MASTER])


class _Part(NamedTuple):
    """Where this rank's part of a parameter lies."""

    flat: Tensor
    """Among what: a buffer, or the parameter itself."""
    offset: int
    """In that."""
    start: int
    """In the parameter."""
    length: int


def fragments(module: nn.Module, optimizer: Any, adamw: AdamW) -> Iterator[Fragment]:
    """The fragments that this rank holds. `optimizer` is DeepSpeed's around `adamw`, or `adamw` itself without ZeRO."""
    for name, parameter in module.named_parameters():
        if not (part := _part(parameter, optimizer, adamw)).length:
            continue
        state = {MASTER: part.flat.data} | (_moments(adamw, part.flat) if parameter.requires_grad else {})
        views = {kind: each.view(-1)[part.offset : part.offset + part.length] for kind, each in state.items()}
        yield Fragment(name, part.start, views)


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
