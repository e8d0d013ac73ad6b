"""How well a model predicts a whole split: every token once, in sliding windows.

Windows of T tokens move on by T / 2, and of each but the first only the later half counts: no token but those at the
very start is predicted from fewer than T / 2 tokens. It costs two forwards a token; disjoint windows would cost one and
overstate the loss by what the model can't see at each window's start. The text begins with an end-of-text token, so its
first token counts too; ends of text are predicted and counted like all tokens.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import PreTrainedModel

from ..data.shards import TokenShards


@dataclass(frozen=True)
class SlidingWindows:
    """The windows over a split, by number."""

    tokens: TokenShards
    length: int
    end_of_text: int

    @property
    def stride(self) -> int:
        return self.length // 2

    def __len__(self) -> int:
        return 1 + max(0, -(-(len(self.tokens) - self.length) // self.stride))

    def batch(self, numbers: range) -> tuple[Tensor, Tensor, Tensor]:
        """Inputs and targets, int64 (len(numbers), length), and which targets count, bool of the same shape."""
        parts = [self._window(number) for number in numbers]
        inputs_BT, targets_BT, counts_BT = (torch.from_numpy(np.stack(part)) for part in zip(*parts, strict=True))
        return inputs_BT, targets_BT, counts_BT

    def _window(self, number: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        start = number * self.stride
        length = min(self.length, len(self.tokens) - start)
        padded = np.full(self.length + 1, self.end_of_text)
        if start:
            padded[: length + 1] = self.tokens.window(start - 1, length + 1)
        else:
            padded[1 : length + 1] = self.tokens.window(0, length)
        counts = np.zeros(self.length, dtype=bool)
        counts[(self.length - self.stride if number else 0) : length] = True
        return padded[:-1], padded[1:], counts


@torch.no_grad()
def losses(
    model: PreTrainedModel, windows: SlidingWindows, mine: range, micro_batch: int, device: torch.device
) -> Iterator[tuple[float, int]]:
    """(nats, tokens) for each batch of the windows `mine`."""
    for first in range(0, len(mine), micro_batch):
        inputs_BT, targets_BT, counts_BT = (
            each.to(device) for each in windows.batch(mine[first : first + micro_batch])
        )
        logits_BTV = model(input_ids=inputs_BT, use_cache=False).logits
        loss_BT = cross_entropy(logits_BTV.float().flatten(0, 1), targets_BT.flatten(), reduction="none").view_as(
            targets_BT
        )
        yield loss_BT[counts_BT].double().sum().item(), int(counts_BT.sum())
