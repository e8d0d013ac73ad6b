"""Ranks that share sequences: DeepSpeed's Ulysses (Jacobs et al. 2023, arXiv 2309.14509, section 3.1).

Each of S ranks has T/S positions of the same rows, and all layers work on these alone, but for attention: there what each has
is exchanged for all T positions of its part of the heads, and back. So a rank keeps 1/S of the activations. Which documents
share a row every rank knows, for all of them have read the whole row.

To all else such ranks are as any others: each adds its labels' losses and gradients to those of the global batch, ZeRO spreads
the state over all of them, and a checkpoint does not tell how sequences were shared.
"""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from trainyard_api.objectives import fitting
from trainyard_api.training_stages import TrainingStage
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from ..errors import PermanentError, setting
from .place import WHOLE_POSITIONS

_NAME = "trainyard_ulysses"
"""Of the attention, among transformers'."""


def share_sequences(model: Any, stage: TrainingStage) -> None:
    """Have the model's attention exchange parts of rows for parts of heads. A collective."""
    parts, config = stage.sequence_parallel, model.config
    if config.model_type not in fitting("NextToken"):
        raise PermanentError(
            f"{setting('sequenceParallel')}: only decoders share sequences; leave it out for {config.model_type}"
        )
    for name in ("num_attention_heads", "num_key_value_heads"):
        if (number := getattr(config, name, parts)) % parts:  # GPT-2's keys have as many heads as its queries
            raise PermanentError(
                f"{setting('sequenceParallel')}: {parts} does not divide the model's {name}, {number}; use a divisor of that"
            )
    own, _ = dist.new_subgroups(parts)
    AttentionInterface.register(_NAME, _Attention(own))
    config._attn_implementation = _NAME


class _Attention:
    """Instead of transformers' scaled_dot_product_attention, around it."""

    def __init__(self, group: Any) -> None:
        self._group = group
        self._positions: Tensor | None = None
        self._mask: Tensor | None = None

    def __call__(
        self,
        module: nn.Module,
        query_BHTD: Tensor,
        key_BKTD: Tensor,
        value_BKTD: Tensor,
        attention_mask: Tensor | None,
        **settings: Any,
    ) -> tuple[Tensor, None]:
        """From the heads at a rank's positions to what they attend to there: (B, T/S, H, D)."""
        from deepspeed.sequence.layer import DistributedAttention  # once there is an engine

        mask = self._mask_of(settings.pop(WHOLE_POSITIONS))

        def of_own_heads(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
            """Of all positions, (B, T, H/S, D)."""
            heads_first = [each.transpose(1, 2) for each in (query, key, value)]
            attended, _ = sdpa_attention_forward(module, *heads_first, mask, **settings)
            return attended

        exchange = DistributedAttention(of_own_heads, self._group, scatter_idx=2, gather_idx=1)
        positions_first = [each.transpose(1, 2).contiguous() for each in (query_BHTD, key_BKTD, value_BKTD)]
        return exchange(*positions_first, 0), None

    def _mask_of(self, positions_BT: Tensor) -> Tensor | None:
        """bool (B, 1, T, T), where positions may be seen; None if each row is one document: made once a micro-batch."""
        if self._positions is not positions_BT:
            self._positions, self._mask = positions_BT, _mask(positions_BT)
        return self._mask


def _mask(positions_BT: Tensor) -> Tensor | None:
    begins_BT = torch.diff(positions_BT, dim=1, prepend=positions_BT[:, :1] - 1) != 1
    if not begins_BT.any():
        return None
    documents_BT = begins_BT.cumsum(1)
    return (documents_BT[:, None, :, None] == documents_BT[:, None, None, :]).tril()
