"""The prompts that a model answers to learn from what its answers are worth: conversations up to their last response."""

from pathlib import Path

import numpy as np

from ..data.shards import RESPONSES, TokenShards
from ..errors import PermanentError, setting


class PromptRows:
    """A split of conversations, each a row: what comes before its last response, and that."""

    documents_cut = 0
    real = 1.0

    def __init__(self, folder: Path, longest: int) -> None:
        """Those whose prompt has more than `longest` tokens are left out."""
        if not (folder / RESPONSES).is_dir():
            raise PermanentError(
                f"{setting('data')}: holds text without roles, and prompts are conversations up to their last response; "
                "prepare them with prepare.sources[0].format: conversations"
            )
        self.tokens, self._learned = TokenShards(folder), TokenShards(folder / RESPONSES)
        lengths = np.array([self._prompt_length(number) for number in range(self.tokens.num_documents)])
        self._rows = np.flatnonzero(lengths <= longest)
        self.too_long = len(lengths) - len(self._rows)
        if not len(self._rows):
            raise PermanentError(
                f"{setting('sequenceLength')}: all {len(lengths)} prompts are longer than {longest} tokens, which is what "
                f"rollout.maxNewTokens leaves them; use at least {lengths.min()} more than that, better {lengths.max()}"
            )

    def __len__(self) -> int:
        return len(self._rows)

    def prompt_and_answer(self, number: int) -> tuple[list[int], list[int]]:
        """Tokens of a row."""
        document = int(self._rows[number])
        tokens, length = self.tokens.document(document).tolist(), self._prompt_length(document)
        return tokens[:length], tokens[length:]

    def _prompt_length(self, document: int) -> int:
        told = np.flatnonzero(self._learned.document(document) == 0)
        return int(told[-1]) + 1 if len(told) else 0
