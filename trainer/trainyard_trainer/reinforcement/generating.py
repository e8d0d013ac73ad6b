"""Responses drawn from a model, a batch at a time, with a cache of keys and values.

Which token a row draws follows from the probabilities and a uniform number of its own (inverse transform sampling: the first
token up to which probabilities add up to it), so a row draws the same whatever it shares a batch with, on any number of ranks.
"""

import math
from collections.abc import Callable
from inspect import signature
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer


class Drawn(NamedTuple):
    """N tokens at most were drawn for each row."""

    tokens: Tensor
    """int64 (B, N); after a row's last one there are ends."""
    log_probabilities: Tensor
    """float32 (B, N): of what was drawn, at the temperature that it was drawn at; 0 after a row's last one."""


@torch.no_grad()
def draw(
    model: Any,
    tokens_PT: Tensor,
    mask_PT: Tensor,
    uniform_BN: Tensor,
    temperature: float,
    end: int,
    all_ended: Callable[[bool], bool] = bool,
) -> Drawn:
    """Continue prompts that are padded on the left, of which the mask says what is there, each as often as there are more rows
    of uniform numbers in [0, 1), until every row has said `end` or has no number left: after its last one it may have NaN. A
    prompt is read once. `all_ended` hears whether all rows here have ended, and says whether that is all.
    """
    copies = len(uniform_BN) // len(tokens_PT)
    lengths_B = mask_PT.sum(1).repeat_interleave(copies)
    named = "cache" if "cache" in signature(model.forward).parameters else "past_key_values"  # before transformers 5.24
    cache = DynamicCache(config=model.config)
    last_BN = nn.functional.pad(uniform_BN.isnan(), (0, 1), value=True)
    ended_B = last_BN[:, 0]
    drawn, found = [], []
    inputs, mask, positions = tokens_PT, mask_PT, (mask_PT.cumsum(1) - 1).clamp(min=0)
    for number, uniform_B in enumerate(uniform_BN.unbind(1)):
        logits_BV = model(
            input_ids=inputs,
            attention_mask=mask,
            position_ids=positions,
            use_cache=True,
            logits_to_keep=1,
            **{named: cache},
        ).logits[:, -1]
        if not number:
            _make_room(cache, copies, uniform_BN.shape[1] - 1)
            logits_BV, mask = logits_BV.repeat_interleave(copies, 0), mask.repeat_interleave(copies, 0)
        token_B, log_probability_B = pick(logits_BV.float() / temperature, uniform_B)
        token_B = torch.where(ended_B, end, token_B)
        drawn.append(token_B)
        found.append(torch.where(ended_B, 0, log_probability_B))
        ended_B = ended_B | (token_B == end) | last_BN[:, number + 1]
        if all_ended(bool(ended_B.all())):
            break
        inputs, positions = token_B[:, None], (lengths_B + number)[:, None]
        mask = torch.cat((mask, torch.ones_like(mask[:, :1])), 1)
    return Drawn(torch.stack(drawn, 1), torch.stack(found, 1))


def pick(logits_BV: Tensor, uniform_B: Tensor) -> tuple[Tensor, Tensor]:
    """The first token of each row up to which probabilities add up to more than its number in [0, 1), and the log-probability
    of that. Probabilities are added up in blocks of tokens, and then within one: few of them one after the other.
    """
    rows, vocabulary = logits_BV.shape
    width = math.isqrt(vocabulary - 1) + 1
    most_B1 = logits_BV.max(1, keepdim=True).values
    weights_BV = logits_BV.new_zeros(rows, -(-vocabulary // width) * width)
    torch.sub(logits_BV, most_B1, out=weights_BV[:, :vocabulary])
    weights_BV[:, :vocabulary].exp_()
    weights_BKW = weights_BV.view(rows, -1, width)
    blocks_BK = weights_BKW.sum(2).double().cumsum(1)
    block_B, before_B = _first_above(blocks_BK, uniform_B * blocks_BK[:, -1])
    every_B = torch.arange(rows, device=logits_BV.device)
    within_BW = weights_BKW[every_B, block_B].double().cumsum(1)
    part_B = (uniform_B * blocks_BK[:, -1] - before_B) / (blocks_BK[every_B, block_B] - before_B)
    within_B, _ = _first_above(within_BW, part_B.clamp(max=1 - 2**-52) * within_BW[:, -1])
    token_B = (block_B * width + within_B).clamp(max=vocabulary - 1)  # of NaN it would be any
    chosen_B = logits_BV.gather(1, token_B[:, None]).squeeze(1) - most_B1.squeeze(1)
    return token_B, chosen_B - blocks_BK[:, -1].log().float()


def _first_above(cumulated_BK: Tensor, wanted_B: Tensor) -> tuple[Tensor, Tensor]:
    """Of each row, the first place where it is above what is wanted, which its last one is; and what is added up before."""
    place_B1 = torch.searchsorted(cumulated_BK, wanted_B[:, None], right=True).clamp(max=cumulated_BK.shape[1] - 1)
    before_B1 = torch.where(place_B1 > 0, cumulated_BK.gather(1, (place_B1 - 1).clamp(min=0)), 0.0)
    return place_B1.squeeze(1), before_B1.squeeze(1)


class _RoomyLayer(DynamicLayer):
    """Keys and values in tensors that have room for so many more: what is there is not copied whenever one is added."""

    def __init__(self, layer: DynamicLayer, room: int) -> None:
        super().__init__()
        self.lazy_initialization(layer.keys, layer.values)
        self._all = [nn.functional.pad(each, (0, 0, 0, room)) for each in (layer.keys, layer.values)]
        self._show(layer.keys.shape[2])

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """Add one position's, or several ones'. All that there are, (B, heads, T, width)."""
        start = self.keys.shape[2]
        end = start + key_states.shape[2]
        for whole, new in zip(self._all, (key_states, value_states), strict=True):
            whole[:, :, start:end] = new
        self._show(end)
        return self.keys, self.values

    def _show(self, length: int) -> None:
        self.keys, self.values = (each[:, :, :length] for each in self._all)


def _make_room(cache: DynamicCache, copies: int, room: int) -> None:
    """Have so many copies of each row, and room for so many more positions where layers see all of them."""
    cache.batch_repeat_interleave(copies)
    for number, layer in enumerate(cache.layers):
        if type(layer) is DynamicLayer:
            cache.layers[number] = _RoomyLayer(layer, room)
