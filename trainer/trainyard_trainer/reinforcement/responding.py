"""From prompts to responses and what these are worth: drawn from a model, told as texts, rewarded.

What is drawn follows from the weights, the seed and the prompts' positions in the order of data, so whoever is asked again, on
whatever machine, says the same.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from trainyard_api.rollout_stages import GrpoStage, RolloutStage

from ..data.conversations import ChatTokens
from ..data.special_tokens import SpecialTokens
from ..data.tokenizer import load_tokenizer
from ..engine.randomness import generator_of
from ..engine.step_times import StepTimes
from .dialogues import AllOver, Answering, Dialogue, Draw, Speaking
from .losses import overlong_penalty
from .rows import Response
from .scorers import RewardModel
from .user_functions import Environment, RewardFunction

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
        environment: Environment | None,
        seed: int,
        draw: Draw,
        times: StepTimes,
        all_over: AllOver = bool,
    ) -> None:
        """`rewards` are those of the settings, one after the other, and `environment` who answers."""
        self._stage, self._rewards, self._seed, self._times = stage, rewards, seed, times
        self._decode = load_tokenizer(tokenizer).decode
        self._speak = Speaking(draw, tokens, self._decode)
        self._answer = None
        if environment and stage.rollout.environment:
            turns = stage.rollout.environment.turns
            self._answer = Answering(environment, turns, ChatTokens(tokenizer), self._decode, all_over)

    def __call__(self, asked: Sequence[Asked]) -> Rolled:
        """A group of responses to each prompt."""
        group = self._stage.rollout.responses
        with self._times.of("generate"):
            dialogues = [self._dialogue(each, number) for each in asked for number in range(group)]
            self._speak(dialogues, group)
            silence = self._answer(dialogues, self._speak) if self._answer else ""
        responses = [each.response() for each in dialogues]
        with self._times.of("score"):
            rewards, said, trouble = self._rewarded(dialogues, responses)
        starts = range(0, len(responses), group)
        groups = [Answers(responses[start : start + group], rewards[start : start + group]) for start in starts]
        return Rolled(groups, said, silence or trouble)

    def _dialogue(self, asked: Asked, number: int) -> Dialogue:
        """Response `number` to a prompt, before its first word; the numbers that decide what it says."""
        uniform_N = generator_of(self._seed, asked.position, number).random(self._stage.rollout.max_new_tokens)
        return Dialogue(asked.prompt, asked.answer, uniform_N)

    def _rewarded(self, dialogues: list[Dialogue], responses: list[Response]) -> tuple[list[float], list[Said], str]:
        """What each is worth, not a number where one could not tell; the best and worst; and why one could not."""
        how, trouble = self._stage.rollout, ""
        columns = {
            "prompts": [self._decode(each.prompt) for each in responses],
            "completions": [self._decode(each.tokens).strip() for each in responses],
            "answers": [self._decode(each.answer).strip() for each in dialogues],
        }
        turns: dict[str, Any] = {"turns": [each.turns for each in dialogues]} if self._answer else {}
        total = torch.zeros(len(responses))
        for reward, settings in zip(self._rewards, self._stage.rewards, strict=True):
            if isinstance(reward, RewardModel):
                scores: Sequence[float | None] = reward([[*each.prompt, *each.tokens] for each in responses])
            else:
                given = reward(**columns, **turns)
                scores = given.values
                trouble = f"{settings.function}: {given.trouble}" if given.trouble else trouble
            total += settings.weight * torch.tensor([torch.nan if each is None else each for each in scores])
        if how.truncated_reward is not None:
            cut = torch.tensor([each.truncated for each in responses])
            total = torch.where(cut & ~total.isnan(), how.truncated_reward, total)
        if isinstance(self._stage, GrpoStage) and (margin := self._stage.policy.overlong_margin):
            lengths = torch.tensor([float(len(each.tokens)) for each in responses])
            total += overlong_penalty(lengths, how.max_new_tokens, margin)
        total[torch.tensor([each.failed for each in dialogues])] = torch.nan
        rewards: list[float] = total.tolist()
        return rewards, extremes([Said(*each) for each in zip(rewards, *columns.values(), strict=True)]), trouble


def extremes(said: Sequence[Said]) -> list[Said]:
    """The best and the worst, best first."""
    known = sorted((each for each in said if not math.isnan(each.reward)), reverse=True)
    return known if len(known) <= 2 * EXTREMES else known[:EXTREMES] + known[-EXTREMES:]
