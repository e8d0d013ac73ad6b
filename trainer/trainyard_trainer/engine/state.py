"""Weights and optimizer state by parameter name, whatever ZeRO stage holds them.

Every rank sees its state as fragments: for a parameter, the part [start, start + length) of its flat elements, as views
into the fp32 master, the first and the second moment. ZeRO 0 has one fragment a parameter, everywhere the same; 1 and 2
cut a flat buffer of all parameters; 3 cuts each parameter. What is written by one layout is read by any other: a reader
asks for ranges of elements. The moments are made here before DeepSpeed's first step would, so nothing is ever
"thrown away to create state".
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import AdamW

MASTER, MOMENTS = "master", ("exp_avg", "exp_avg_sq")


@dataclass(frozen=True)
class Fragment:
    """This rank's part of one parameter: flat fp32 views, equally long, by kind of state."""

    name: str
    start: int
    state: dict[str, Tensor]

    @property
    def stop(self) -> int:
        return self.start + len(self.state[MASTER])


def fragments(module: nn.Module, optimizer: Any, adamw: AdamW) -> Iterator[Fragment]:
    """The fragments that this rank holds. `optimizer` is DeepSpeed's around `adamw`, or `adamw` itself without ZeRO."""
    parameter: Any  # with what DeepSpeed hangs on it
    for name, parameter in module.named_parameters():
        if hasattr(parameter, "ds_tensor"):
            group, offset, length = optimizer.grad_position[optimizer.get_param_id(parameter)]
            flat = optimizer.fp32_partitioned_groups_flat[group]
            start = length * torch.distributed.get_rank()
            length = min(length, parameter.ds_numel - start)  # the last ranks hold padding, or nothing else
        elif hasattr(parameter, "_hp_mapping"):
            if parameter._hp_mapping is None:
                continue
            mapping = parameter._hp_mapping
            [flat] = adamw.param_groups[mapping.param_group_index]["params"]
            offset, length = mapping.hp_fragment_address.start, mapping.hp_fragment_address.numel
            start = mapping.lp_fragment_address.start
        else:
            flat, offset, start, length = parameter, 0, 0, parameter.numel()
        if length > 0:
            moments = _moments(adamw, flat)
            views = {MASTER: flat.data, **{kind: moments[kind] for kind in MOMENTS}}
            yield Fragment(name, start, {kind: view.view(-1)[offset : offset + length] for kind, view in views.items()})


def set_steps(adamw: AdamW, steps: int) -> None:
    """Tell AdamW, whose bias correction asks, how many steps it has done."""
    for state in adamw.state.values():
        state["step"].fill_(steps)


def _moments(adamw: AdamW, flat: Tensor) -> dict[str, Tensor]:
    """AdamW's state of a tensor; before the first step, the zeros that it would begin with."""
    state: dict[str, Tensor] = adamw.state[flat]
    if not state:
        state["step"] = torch.tensor(0.0)
        for kind in MOMENTS:
            state[kind] = torch.zeros_like(flat, memory_format=torch.preserve_format)
    return state
