"""The model's own responses to prompts, as what it trains on: drawn and rewarded when a batch is wanted, so that they are never
of an older model.

A prompt is a conversation up to its last response, which reward functions are told as the answer. What is drawn follows from
the weights, the seed and the prompts' positions in the order of data alone: a step that is done again draws the same.
"""

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from trainyard_api.rollout_stages import GrpoStage, RolloutStage

from ..data.fetched import fetch_file
from ..data.objectives.objective import Sample
from ..data.special_tokens import SpecialTokens
from ..data.tokenizer import load_tokenizer
from ..engine.randomness import generator_of
from ..engine.step_times import StepTimes
from ..errors import setting
from ..group import Group
from .generating import Drawn
from .losses import overlong_penalty
from .prompts import PromptRows
from .reward_functions import RewardFunction
from .rows import Response, RolloutBatch, batch_of
from .scorers import RewardModel

Draw = Callable[[Tensor, Tensor, Tensor], Drawn]
"""Continues prompts (P, T), of which the mask (P, T) says what is there, each G times, by as many tokens as there are uniform
numbers (P · G, N).
"""
Reward = RewardFunction | RewardModel


class Said(NamedTuple):
    """A response for people to read."""

    reward: float
    prompt: str
    completion: str
    answer: str


_EXTREMES = 4


class Rollouts:
    """The objective of learning from rewards. `begin` comes first."""

    def __init__(
        self,
        stage: RolloutStage,
        tokens: SpecialTokens,
        tokenizer: Path,
        rewards: Sequence[Reward],
        seed: int,
        width: int,
    ) -> None:
        """`rewards` are those of the settings, one after the other; `width` is the model's."""
        self._stage, self._tokens, self._rewards, self._seed = stage, tokens, rewards, seed
        self._width = width
        self._tokenizer = load_tokenizer(tokenizer)
        self._draw: Draw
        self._times: StepTimes
        self.trouble = ""
        """Why responses were left out, the last time that some were."""
        self._extremes: list[Said] = []

    def begin(self, draw: Draw, times: StepTimes) -> None:
        """With the model of now, and from now on."""
        self._draw, self._times = draw, times

    def open(self, folder: Path) -> PromptRows:
        """A split of conversations."""
        return PromptRows(folder, self._stage.sequence_length - self._stage.rollout.max_new_tokens - 1)

    def batch(self, samples: Sequence[Sample]) -> RolloutBatch:
        """A group of responses to each prompt, one after the other."""
        group = self._stage.rollout.responses
        asked = [each.rows.prompt_and_answer(each.number) for each in samples]
        with self._times.of("generate"):
            responses = self._responses([prompt for prompt, _ in asked], samples)
        with self._times.of("score"):
            rewards = self._rewarded(responses, [answer for _, answer in asked for _ in range(group)])
        rewards_PG = rewards.view(len(samples), group)
        return batch_of(responses, rewards_PG, self._tokens.begin, self._tokens.end, self._width)

    def best_and_worst(self) -> dict[str, list[dict[str, Any]]]:
        """Of the responses since this was last asked, a few with most reward and with least, best first."""
        told, self._extremes = [each._asdict() for each in self._extremes], []
        return {"best": told[:_EXTREMES], "worst": told[_EXTREMES:][-_EXTREMES:]}

    def _responses(self, prompts: list[list[int]], samples: Sequence[Sample]) -> list[Response]:
        """A group to each; padded on the left, for generating begins on the right."""
        longest = 1 + max(map(len, prompts))
        tokens_PT = torch.full((len(prompts), longest), self._tokens.end)
        mask_PT = torch.zeros_like(tokens_PT)
        for row, prompt in enumerate(prompts):
            tokens_PT[row, longest - len(prompt) - 1 :] = torch.tensor([self._tokens.begin, *prompt])
            mask_PT[row, longest - len(prompt) - 1 :] = 1
        how = self._stage.rollout
        uniform_BN = np.stack([self._uniform(each.draw, number) for each in samples for number in range(how.responses)])
        drawn = self._draw(tokens_PT, mask_PT, torch.from_numpy(uniform_BN))
        repeated = (prompt for prompt in prompts for _ in range(how.responses))
        rows = zip(repeated, drawn.tokens.tolist(), drawn.log_probabilities.tolist(), strict=True)
        return [_cut(*row, self._tokens.end) for row in rows]

    def _uniform(self, position: int, number: int) -> np.ndarray:
        """The numbers that decide what response `number` to the prompt at a position says."""
        return generator_of(self._seed, position, number).random(self._stage.rollout.max_new_tokens)

    def _rewarded(self, responses: list[Response], answers: list[list[int]]) -> Tensor:
        """float (B,), not a number where one could not tell."""
        decode, how = self._tokenizer.decode, self._stage.rollout
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
                self.trouble = f"{settings.function}: {given.trouble}" if given.trouble else self.trouble
            total += settings.weight * torch.tensor([torch.nan if each is None else each for each in scores])
        if how.truncated_reward is not None:
            cut = torch.tensor([each.truncated for each in responses])
            total = torch.where(cut & ~total.isnan(), how.truncated_reward, total)
        if isinstance(self._stage, GrpoStage) and (margin := self._stage.policy.overlong_margin):
            lengths = torch.tensor([float(len(each.tokens)) for each in responses])
            total += overlong_penalty(lengths, how.max_new_tokens, margin)
        self._remember([Said(*each) for each in zip(total.tolist(), *columns.values(), strict=True)])
        return total

    def _remember(self, said: list[Said]) -> None:
        """Those that are better or worse than what is remembered."""
        known = sorted([*self._extremes, *(each for each in said if not math.isnan(each.reward))], reverse=True)
        self._extremes = known if len(known) <= 2 * _EXTREMES else known[:_EXTREMES] + known[-_EXTREMES:]


def _cut(prompt: list[int], said: list[int], log_probabilities: list[float], end: int) -> Response:
    """A response up to the first end of text, which it says itself."""
    tokens = said[: said.index(end) + 1] if end in said else said
    return Response(prompt, tokens, log_probabilities[: len(tokens)], truncated=end not in said)


def reward_functions(stage: RolloutStage, group: Group, note: Callable[[str], object]) -> dict[int, RewardFunction]:
    """Those of the settings by their place among the rewards, each in its process. Relative files are below the storage
    root.
    """

    def place(given: str, field: str) -> str:
        path, _, name = given.rpartition(":")
        if not path.endswith(".py"):
            return given
        return f"{fetch_file(path, group.job.storage_uri, field, note)}:{name}"

    found = {}
    for number, each in enumerate(stage.rewards):
        field = setting(f"rewards[{number}].function")
        if each.function is not None:
            found[number] = RewardFunction(place(each.function, field), field, each.timeout_seconds)
    return found
