"""Encoders, and T5, that are told by `segment_ids` which document each position of a row is of, and keep documents apart.

transformers makes that of position_ids for decoders, and of nothing for these. Masks are made here, on the device, for each
micro-batch: a row of 512 positions has 4 KB of segments and 256 KB of mask. Classes go by transformers' names, for these are
written into config.json: what is saved opens as any other.
"""

from typing import Any

import torch
import transformers
from torch import Tensor


class BertForMaskedLM(transformers.BertForMaskedLM):
    """With `segment_ids` (B, T) in the place of a mask."""

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        segment_ids: Tensor | None = None,
        **others: Any,
    ) -> Any:
        """As transformers' own without them."""
        if segment_ids is not None:
            attention_mask = _same(segment_ids, segment_ids)
        return super().forward(input_ids=input_ids, attention_mask=attention_mask, **others)


class ModernBertForMaskedLM(transformers.ModernBertForMaskedLM):
    """With `segment_ids` (B, T) in the place of a mask."""

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Any = None,
        segment_ids: Tensor | None = None,
        **others: Any,
    ) -> Any:
        """As transformers' own without them."""
        if segment_ids is not None:
            same = _same(segment_ids, segment_ids)
            at = torch.arange(segment_ids.shape[1], device=segment_ids.device)
            near = (at[:, None] - at[None, :]).abs() <= self.config.sliding_window
            attention_mask = {"full_attention": same, "sliding_attention": same & near}
        return super().forward(input_ids=input_ids, attention_mask=attention_mask, **others)


class T5ForConditionalGeneration(transformers.T5ForConditionalGeneration):
    """With `segment_ids` (B, T) of the encoder's row and `decoder_segment_ids` (B, U) in the place of masks."""

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        decoder_input_ids: Tensor | None = None,
        decoder_attention_mask: Tensor | None = None,
        encoder_outputs: Any = None,
        segment_ids: Tensor | None = None,
        decoder_segment_ids: Tensor | None = None,
        **others: Any,
    ) -> Any:
        """As transformers' own without them."""
        if segment_ids is not None and decoder_segment_ids is not None:
            encoder_outputs = self.encoder(input_ids=input_ids, attention_mask=_same(segment_ids, segment_ids))
            input_ids, attention_mask = None, _same(decoder_segment_ids, segment_ids)
            width = decoder_segment_ids.shape[1]
            causal = torch.ones(width, width, dtype=torch.bool, device=segment_ids.device).tril()
            decoder_attention_mask = _same(decoder_segment_ids, decoder_segment_ids) & causal
        return super().forward(
            input_ids=input_ids,
            attention_mask=attention_mask,
            decoder_input_ids=decoder_input_ids,
            decoder_attention_mask=decoder_attention_mask,
            encoder_outputs=encoder_outputs,
            **others,
        )


def _same(queries_BT: Tensor, keys_BS: Tensor) -> Tensor:
    """bool (B, 1, T, S): whether query and key are of one document."""
    return queries_BT[:, None, :, None] == keys_BS[:, None, None, :]
