"""Responses in the making: what the model says, what an environment answers, what the model says to that, and so on.

An environment is a function of what was said, so a dialogue follows from the weights, the seed and the prompt's position like
any response.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from ..data.conversations import ChatTokens
from ..data.special_tokens import SpecialTokens
from .generating import Drawn
from .rows import Response
from .user_functions import Environment

Draw = Callable[[Tensor, Tensor, Tensor], Drawn]
"""Continues prompts (P, T), of which the mask (P, T) says what is there, each G times, by as many tokens as there are uniform
numbers (P · G, N); a row has NaN after its last one.
"""
AllOver = Callable[[bool], bool]
"""Hears whether all is over here, and says whether it is on all ranks that have to draw together."""


@dataclass
class Dialogue:
    """A response in the making."""

    prompt: list[int]
    answer: list[int]
    """What reward functions and environments are told that was wanted."""
    uniform: np.ndarray
    """(N,): the numbers that decide on its tokens. It has as many at most, those that are heard counted."""
    tokens: list[int] = field(default_factory=list)
    log_probabilities: list[float] = field(default_factory=list)
    heard: set[int] = field(default_factory=set)
    turns: list[str] = field(default_factory=list)
    """What the model and the environment have said in turns, the model first."""
    over: bool = False
    truncated: bool = False
    failed: bool = False
    """The environment could not answer."""

    def response(self) -> Response:
        """As it is now."""
        return Response(self.prompt, self.tokens, self.log_probabilities, self.truncated, frozenset(self.heard))

    def rest(self) -> np.ndarray:
        """(N,): the numbers of the tokens that are to come, and NaN; nothing else once it is over."""
        used = len(self.uniform) if self.over else len(self.tokens)
        return np.append(self.uniform[used:], np.full(used, np.nan))

    def say(self, tokens: list[int], log_probabilities: list[float], end: int) -> list[int]:
        """What was drawn, up to the first end of text, or as far as there is room. Returns that part of it."""
        room = len(self.uniform) - len(self.tokens)
        said = tokens[: tokens.index(end) + 1 if end in tokens else None][:room]
        self.tokens = self.tokens + said
        self.log_probabilities = self.log_probabilities + log_probabilities[: len(said)]
        if said[-1] != end:
            self.over = self.truncated = True
        return said

    def hear(self, text: str, tokens: list[int]) -> None:
        """What is said to that. If there is no room to answer it, it is left out, and this is cut off."""
        if len(self.tokens) + len(tokens) >= len(self.uniform):
            self.over = self.truncated = True
            return
        self.turns.append(text)
        self.heard |= {*range(len(self.tokens), len(self.tokens) + len(tokens))}
        self.tokens = self.tokens + tokens
        self.log_probabilities = self.log_probabilities + [0.0] * len(tokens)


class Speaking:
    """Has a model speak."""

    def __init__(self, draw: Draw, tokens: SpecialTokens, decode: Callable[[list[int]], str]) -> None:
        self._draw, self._tokens, self._decode = draw, tokens, decode

    def __call__(self, dialogues: Sequence[Dialogue], copies: int = 1) -> None:
        """Each of the dialogues goes on. So many, one after the other, have said the same until now."""
        read = [each.prompt + each.tokens for each in dialogues[::copies]]
        longest = 1 + max(map(len, read))
        tokens_PT = torch.full((len(read), longest), self._tokens.end)
        mask_PT = torch.zeros_like(tokens_PT)
        for row, each in enumerate(read):  # padded on the left, for generating begins on the right
            tokens_PT[row, longest - len(each) - 1 :] = torch.tensor([self._tokens.begin, *each])
            mask_PT[row, longest - len(each) - 1 :] = 1
        drawn = self._draw(tokens_PT, mask_PT, torch.from_numpy(np.stack([each.rest() for each in dialogues])))
        for dialogue, *said in zip(dialogues, drawn.tokens.tolist(), drawn.log_probabilities.tolist(), strict=True):
            if not dialogue.over:
                turn = dialogue.say(*said, self._tokens.end)
                dialogue.turns.append(self._decode(turn).strip())


class Answering:
    """Has an environment answer what the model has said, and the model speak again."""

    def __init__(
        self,
        environment: Environment,
        turns: int,
        chat: ChatTokens,
        decode: Callable[[list[int]], str],
        all_over: AllOver = bool,
    ) -> None:
        """The model speaks so many times at most."""
        self._environment, self._turns, self._chat, self._decode = environment, turns, chat, decode
        self._all_over = all_over

    def __call__(self, dialogues: Sequence[Dialogue], speak: Speaking) -> str:
        """Until all are over. Returns why the environment could not answer; empty if it could."""
        trouble = ""
        for _ in range(self._turns - 1):
            trouble = self._answer([each for each in dialogues if not each.over]) or trouble
            going_on = [each for each in dialogues if not each.over]
            if self._all_over(not going_on):
                break
            speak(going_on or dialogues[:1])  # with ZeRO 3 all ranks have to, or none can
        return trouble

    def _answer(self, dialogues: Sequence[Dialogue]) -> str:
        """What the model has said last. Returns why that was not possible."""
        if not dialogues:
            return ""
        given = self._environment(
            prompts=[self._decode(each.prompt) for each in dialogues],
            turns=[each.turns for each in dialogues],
            answers=[self._decode(each.answer).strip() for each in dialogues],
        )
        for dialogue, said in zip(dialogues, given.values, strict=True):
            if said is None:
                dialogue.over, dialogue.failed = True, bool(given.trouble)
            else:
                dialogue.hear(said, self._chat.reply(said))
        return f"{self._environment.field}: {given.trouble}" if given.trouble else ""
