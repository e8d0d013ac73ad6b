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
from typing import Any

import torch
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


def fragments(module: nn.Module, optimizer: Any, adamw: AdamW) -> Iterator[Fragment]:
    """The fragments that this rank holds. `optimizer` is DeepSpeed's around `adamw`, or `adamw` itself without ZeRO."""
    for name, parameter in module.named_parameters():
        flat, offset, start, length = _held(parameter, optimizer, adamw)
        if length > 0:
            state = {MASTER: flat.data} | (_moments(adamw, flat) if parameter.requires_grad else {})
            yield Fragment(name, start, {kind: each.view(-1)[offset : offset + length] for kind, each in state.items()})


def _held(parameter: Any, optimizer: Any, adamw: AdamW) -> tuple[Tensor, int, int, int]:
    """This rank's part of a parameter, which DeepSpeed has hung its own things on: the tensor that it lies in, where in
    it, from which element on, and how many (0 or less: nothing)."""
    if hasattr(parameter, "ds_tensor"):
        if parameter.requires_grad:
            group, offset, length = optimizer.grad_position[optimizer.get_param_id(parameter)]
            flat = optimizer.fp32_partitioned_groups_flat[group]
        else:
            flat, offset, length = parameter.ds_tensor, 0, parameter.ds_tensor.ds_numel
        start = length * torch.distributed.get_rank()
        return (
            flat,
            offset,
            start,
            min(length, parameter.ds_numel - start),
        )  # the last ranks hold padding, or nothing else
    if hasattr(parameter, "_hp_mapping"):
        if parameter._hp_mapping is None:
            return parameter, 0, 0, 0
        mapping = parameter._hp_mapping
        [flat] = adamw.param_groups[mapping.param_group_index]["params"]
        address = mapping.hp_fragment_address
        return flat, address.start, mapping.lp_fragment_address.start, address.numel
    if optimizer is adamw:
        return parameter, 0, 0, parameter.numel()
    share = math.ceil(parameter.numel() / torch.distributed.get_world_size())
    start = share * torch.distributed.get_rank()
    return parameter, start, start, min(share, parameter.numel() - start)


def set_steps(adamw: AdamW, steps: int) -> None:
    """Tell AdamW, whose bias correction asks, how many steps it has done."""
    for state in adamw.state.values():
        state["step"].fill_(steps)


def _moments(adamw: AdamW, flat: Tensor) -> dict[str, Tensor]:
    """AdamW's moments of a tensor; before the first step, the zeros that it would begin with."""
    state: dict[str, Tensor] = adamw.state[flat]
    if not state:
        state["step"] = torch.tensor(0.0)
        for kind in MOMENTS:
            state[kind] = torch.zeros_like(flat, memory_format=torch.preserve_format)
    return {kind: state[kind] for kind in MOMENTS}
