"""The objective by its name, and the special tokens that it needs."""

from dataclasses import replace

from trainyard_api.objectives import TrainedOn
from transformers import PretrainedConfig

from ..special_tokens import MASK, SpecialTokens, sentinel
from .masked_lm import MaskedLM
from .next_token import NextToken
from .objective import Objective
from .preferences import Preferences
from .responses import Responses
from .rewards import Rewards
from .sequence_to_sequence import SequenceToSequence
from .span_corruption import SpanCorruption, longest_piece, sentinels_needed
from .unpaired import Unpaired

_SENTINELS = 100
"""As many as T5 has, or as many as a row can need."""


def completed(tokens: SpecialTokens, model_type: str, length: int) -> tuple[SpecialTokens, list[str]]:
    """The tokens that a model has, and the names of those that the tokenizer lacks: they are numbered behind its vocabulary."""
    if model_type in ("bert", "modernbert") and tokens.mask is None:
        return replace(tokens, mask=tokens.size, size=tokens.size + 1), [MASK]
    if model_type == "t5" and not tokens.sentinels:
        many = max(_SENTINELS, sentinels_needed(longest_piece(length)))
        numbers = tuple(range(tokens.size, tokens.size + many))
        return replace(tokens, sentinels=numbers, size=tokens.size + many), [sentinel(it) for it in range(many)]
    return tokens, []


def objective_of(name: TrainedOn, config: PretrainedConfig, tokens: SpecialTokens, length: int, seed: int) -> Objective:
    """For a model with these tokens (`completed`), in rows of `length` positions."""
    if name == "NextToken":
        return NextToken(length, tokens.begin)
    if name == "Responses":
        return Responses(length, tokens.begin)
    if name == "Preferences":
        return Preferences(length, tokens.begin)
    if name == "Unpaired":
        return Unpaired(length, tokens.begin)
    if name == "Rewards":
        return Rewards(length, tokens.begin)
    if name == "MaskedLM":
        assert tokens.mask is not None
        return MaskedLM(length, tokens.begin, tokens.end, tokens.mask, tokens.size, seed)
    if name == "SpanCorruption":
        return SpanCorruption(length, config.decoder_start_token_id, tokens.end, tokens.sentinels, seed)
    return SequenceToSequence(length, config.decoder_start_token_id)
