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
    tokens_PT: Tensor,
    mask_PT: Tensor,
    uniform_BN: Tensor,
    temperature: float,
    end: int,
    all_ended: Callable[[bool], bool] = bool,
) -> Drawn:
    """Continue prompts that are padded on the left, of which the mask says what is there, each as often as there are more rows
    of uniform numbers in [0, 1), until every row has said `end` or has as many tokens as numbers. A prompt is read once.
    `all_ended` hears whether all rows here have ended, and says whether that is all.
    """
    copies = len(uniform_BN) // len(tokens_PT)
    lengths_B = mask_PT.sum(1).repeat_interleave(copies)
    named = "cache" if "cache" in signature(model.forward).parameters else "past_key_values"  # before transformers 5.24
    cache = DynamicCache(config=model.config)
    ended_B = torch.zeros(len(uniform_BN), dtype=torch.bool, device=tokens_PT.device)
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
            cache.batch_repeat_interleave(copies)
            logits_BV, mask = logits_BV.repeat_interleave(copies, 0), mask.repeat_interleave(copies, 0)
        log_probabilities_BV = torch.log_softmax(logits_BV.float() / temperature, 1)
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
        inputs, positions = token_B[:, None], (lengths_B + number)[:, None]
        mask = torch.cat((mask, torch.ones_like(mask[:, :1])), 1)
    return Drawn(torch.stack(drawn, 1), torch.stack(found, 1))
