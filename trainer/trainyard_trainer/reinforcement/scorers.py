"""Rewards that an earlier stage's model gives: its heads' mean score after a response's last token."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from ..checkpoint.trained import load_trained, same_tokenizer
from ..errors import PermanentError

ROWS_AT_ONCE = 64


def load_reward_model(folder: Path, tokenizer: Path, field: str) -> PreTrainedModel:
    """The model of a reward stage's artifact. PermanentError, naming the field, if it reads other tokens."""
    trained = load_trained(folder)
    if not same_tokenizer(trained.tokenizer, tokenizer):
        raise PermanentError(
            f"{field}: the reward model was trained on other tokens than the policy reads; prepare its data with the same "
            "tokenizer (prepare.tokenizer.stage) and train it again"
        )
    return trained.model


class RewardModel:
    """A model that scores, which does not learn."""

    def __init__(self, model: Any, begin: int, device: torch.device) -> None:
        """`begin` is what it reads before a conversation's first token."""
        self.model, self._begin, self._device = model.to(device).requires_grad_(False).eval(), begin, device

    @torch.no_grad()
    def __call__(self, conversations: Sequence[Sequence[int]]) -> list[float]:
        """The score of each, by its tokens."""
        found: list[float] = []
        for start in range(0, len(conversations), ROWS_AT_ONCE):
            rows = conversations[start : start + ROWS_AT_ONCE]
            length = 1 + max(map(len, rows))
            tokens_BT = torch.full((len(rows), length), self._begin)
            for row, conversation in enumerate(rows):
                tokens_BT[row, 1 : 1 + len(conversation)] = torch.tensor(conversation)
            positions_BT = torch.arange(length).expand_as(tokens_BT)
            ends = torch.tensor([row * length + len(each) for row, each in enumerate(rows)])
            scores_NH = self.model(*(each.to(self._device) for each in (tokens_BT, positions_BT, ends)))
            found += scores_NH.float().mean(1).tolist()
        return found
