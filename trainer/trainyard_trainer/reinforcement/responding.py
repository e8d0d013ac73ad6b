"""From prompts to responses and what these are worth: drawn from a model, told as texts, rewarded.

What is drawn follows from the weights, the seed and the prompts' positions in the order of data, so whoever is asked again, on
whatever machine, says the same.
"""

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from trainyard_api.rollout_stages import GrpoStage, RolloutStage

from ..data.special_tokens import SpecialTokens
from ..data.tokenizer import load_tokenizer
from ..engine.randomness import generator_of
from ..engine.step_times import StepTimes
from .generating import Drawn
from .losses import overlong_penalty
from .reward_functions import RewardFunction
from .rows import Response
from .scorers import RewardModel

Draw = Callable[[Tensor, Tensor, Tensor], Drawn]
"""Continues prompts (P, T), of which the mask (P, T) says what is there, each G times, by as many tokens as there are uniform
numbers (P · G, N).
"""
Reward = RewardFunction | RewardModel
EXTREMES = 4
"""Of responses that people read: so many of the best, and of the worst."""


class Asked(NamedTuple):
    """A prompt."""

    prompt: list[int]
    answer: list[int]
    """What reward functions are told that was wanted."""
    position: int
    """In the order of data."""


class Answers(NamedTuple):
    """The responses to one prompt."""

    responses: list[Response]
    rewards: list[float]
    """Not a number where one could not tell."""

    @property
    def informative(self) -> bool:
        """Whether their rewards differ."""
        known = [each for each in self.rewards if not math.isnan(each)]
        return bool(known) and min(known) < max(known)


class Said(NamedTuple):
    """A response for people to read."""

    reward: float
    prompt: str
    completion: str
    answer: str


class Rolled(NamedTuple):
    """Responses to some prompts, a group each."""

    groups: list[Answers]
    said: list[Said]
    """The best and the worst of them."""
    trouble: str
    """Why some could not be rewarded; empty if all could."""


class Responder:
    """One who draws and rewards."""

    def __init__(
        self,
        stage: RolloutStage,
        tokens: SpecialTokens,
        tokenizer: Path,
        rewards: Sequence[Reward],
        seed: int,
        draw: Draw,
        times: StepTimes,
    ) -> None:
        """`rewards` are those of the settings, one after the other."""
        self._stage, self._tokens, self._rewards, self._seed = stage, tokens, rewards, seed
        self._tokenizer = load_tokenizer(tokenizer)
        self._draw, self._times = draw, times

    def __call__(self, asked: Sequence[Asked]) -> Rolled:
        """A group of responses to each prompt."""
        group = self._stage.rollout.responses
        with self._times.of("generate"):
            responses = self._responses(asked)
        with self._times.of("score"):
            rewards, said, trouble = self._rewarded(responses, [each.answer for each in asked for _ in range(group)])
        starts = range(0, len(responses), group)
        groups = [Answers(responses[start : start + group], rewards[start : start + group]) for start in starts]
        return Rolled(groups, said, trouble)

    def _responses(self, asked: Sequence[Asked]) -> list[Response]:
        """A group to each; padded on the left, for generating begins on the right."""
        longest = 1 + max(len(each.prompt) for each in asked)
        tokens_PT = torch.full((len(asked), longest), self._tokens.end)
        mask_PT = torch.zeros_like(tokens_PT)
        for row, each in enumerate(asked):
            tokens_PT[row, longest - len(each.prompt) - 1 :] = torch.tensor([self._tokens.begin, *each.prompt])
            mask_PT[row, longest - len(each.prompt) - 1 :] = 1
        group = self._stage.rollout.responses
        uniform_BN = np.stack([self._uniform(each.position, number) for each in asked for number in range(group)])
        drawn = self._draw(tokens_PT, mask_PT, torch.from_numpy(uniform_BN))
        repeated = (each.prompt for each in asked for _ in range(group))
        rows = zip(repeated, drawn.tokens.tolist(), drawn.log_probabilities.tolist(), strict=True)
        return [_cut(*row, self._tokens.end) for row in rows]

    def _uniform(self, position: int, number: int) -> np.ndarray:
        """The numbers that decide what response `number` to the prompt at a position says."""
        return generator_of(self._seed, position, number).random(self._stage.rollout.max_new_tokens)

    def _rewarded(self, responses: list[Response], answers: list[list[int]]) -> tuple[list[float], list[Said], str]:
        """What each is worth, not a number where one could not tell; the best and worst; and why one could not."""
        decode, how, trouble = self._tokenizer.decode, self._stage.rollout, ""
        columns = {
            "prompts": [decode(each.prompt) for each in responses],
            "completions": [decode(each.tokens).strip() for each in responses],
            "answers": [decode(each).strip() for each in answers],
        }
        total = torch.zeros(len(responses))
        for reward, settings in zip(self._rewards, self._stage.rewards, strict=True):
            if isinstance(reward, RewardModel):
                scores: Sequence[float | None] = reward([[*each.prompt, *each.tokens] for each in responses])
            else:
                given = reward(**columns)
                scores = given.rewards
                trouble = f"{settings.function}: {given.trouble}" if given.trouble else trouble
            total += settings.weight * torch.tensor([torch.nan if each is None else each for each in scores])
        if how.truncated_reward is not None:
            cut = torch.tensor([each.truncated for each in responses])
            total = torch.where(cut & ~total.isnan(), how.truncated_reward, total)
        if isinstance(self._stage, GrpoStage) and (margin := self._stage.policy.overlong_margin):
            lengths = torch.tensor([float(len(each.tokens)) for each in responses])
            total += overlong_penalty(lengths, how.max_new_tokens, margin)
        rewards: list[float] = total.tolist()
        return rewards, extremes([Said(*each) for each in zip(rewards, *columns.values(), strict=True)]), trouble


def extremes(said: Sequence[Said]) -> list[Said]:
    """The best and the worst, best first."""
    known = sorted((each for each in said if not math.isnan(each.reward)), reverse=True)
    return known if len(known) <= 2 * EXTREMES else known[:EXTREMES] + known[-EXTREMES:]


def _cut(prompt: list[int], said: list[int], log_probabilities: list[float], end: int) -> Response:
    """A response up to the first end of text, which it says itself."""
    tokens = said[: said.index(end) + 1] if end in said else said
    return Response(prompt, tokens, log_probabilities[: len(tokens)], truncated=end not in said)
