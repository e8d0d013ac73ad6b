"""Responses drawn from a model, a batch at a time, with a cache of keys and values.

Which token a row draws follows from the probabilities and a uniform number of its own (inverse transform sampling: the first
token up to which probabilities add up to it), so a row draws the same whatever it shares a batch with, on any number of ranks.
"""

from collections.abc import Callable
from inspect import signature
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import DynamicCache


class Drawn(NamedTuple):
    """N tokens at most were drawn for each row."""

    tokens: Tensor
    """int64 (B, N); after a row's end there are more ends."""
    log_probabilities: Tensor
    """float32 (B, N): of what was drawn, at the temperature that it was drawn at; 0 after a row's end."""


@torch.no_grad()
def draw(
    model: Any,
    tokens_BT: Tensor,
    mask_BT: Tensor,
    uniform_BN: Tensor,
    temperature: float,
    end: int,
    all_ended: Callable[[bool], bool] = bool,
) -> Drawn:
    """Continue rows that are padded on the left, of which the mask says what is there, until each has said `end` or has as many
    tokens as uniform numbers in [0, 1). `all_ended` hears whether all rows here have, and says whether that is all.
    """
    lengths_B = mask_BT.sum(1)
    positions_BT = (mask_BT.cumsum(1) - 1).clamp(min=0)
    named = "cache" if "cache" in signature(model.forward).parameters else "past_key_values"  # before transformers 5.24
    cache = {named: DynamicCache(config=model.config)}
    ended_B = torch.zeros(len(tokens_BT), dtype=torch.bool, device=tokens_BT.device)
    drawn, found = [], []
    inputs_BT = tokens_BT
    for number, uniform_B in enumerate(uniform_BN.unbind(1)):
        logits_B1V = model(
            input_ids=inputs_BT,
            attention_mask=mask_BT,
            position_ids=positions_BT,
            use_cache=True,
            logits_to_keep=1,
            **cache,
        ).logits
        log_probabilities_BV = torch.log_softmax(logits_B1V[:, -1].float() / temperature, 1)
        cumulated_BV = log_probabilities_BV.exp().cumsum(1, dtype=torch.float64)
        wanted_B1 = uniform_B[:, None] * cumulated_BV[:, -1:]
        token_B1 = torch.searchsorted(cumulated_BV, wanted_B1, right=True).clamp(max=cumulated_BV.shape[1] - 1)
        log_probability_B = log_probabilities_BV.gather(1, token_B1).squeeze(1)
        token_B = torch.where(ended_B, end, token_B1.squeeze(1))
        drawn.append(token_B)
        found.append(torch.where(ended_B, 0, log_probability_B))
        ended_B = ended_B | (token_B == end)
        if all_ended(bool(ended_B.all())):
            break
        inputs_BT, positions_BT = token_B[:, None], (lengths_B + number)[:, None]
        mask_BT = torch.cat((mask_BT, torch.ones_like(mask_BT[:, :1])), 1)
    return Drawn(torch.stack(drawn, 1), torch.stack(found, 1))
