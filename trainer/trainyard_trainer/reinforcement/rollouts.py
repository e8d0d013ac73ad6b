"""The model's own responses to prompts, as what it trains on: drawn and rewarded when a batch is wanted, so that they are never
of an older model, or given by others that have drawn them (`apart`).

A prompt is a conversation up to its last response, which reward functions are told as the answer.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from trainyard_api.rollout_stages import RolloutStage

from ..data.objectives.objective import Sample
from ..data.special_tokens import SpecialTokens
from .prompts import PromptRows
from .responding import EXTREMES, Answers, Asked, Responder, Rolled, Said, extremes
from .rows import RolloutBatch, batch_of


class Rollouts:
    """The objective of learning from rewards. Batches come after `begin`, or what others give."""

    def __init__(self, stage: RolloutStage, tokens: SpecialTokens, width: int) -> None:
        """`width` is the model's."""
        self._stage, self._tokens, self._width = stage, tokens, width
        self._responder: Responder
        self._given: dict[Sample, Answers] = {}
        self._said: list[Said] = []
        self.trouble = ""
        """Why responses were left out, the last time that some were."""

    def begin(self, responder: Responder) -> None:
        """Whom to ask from now on."""
        self._responder = responder

    def give(self, samples: Sequence[Sample], answers: Sequence[Answers]) -> None:
        """What was said of these, instead of what was given before."""
        self._given = dict(zip(samples, answers, strict=True))

    def hear(self, rolled: Rolled) -> None:
        """Remember what people may want to know of what others have drawn."""
        self._said = extremes([*self._said, *rolled.said])
        self.trouble = rolled.trouble or self.trouble

    def open(self, folder: Path) -> PromptRows:
        """A split of conversations."""
        return PromptRows(folder, self._stage.sequence_length - self._stage.rollout.max_new_tokens - 1)

    def batch(self, samples: Sequence[Sample]) -> RolloutBatch:
        """A group of responses to each prompt, one after the other."""
        groups = self.answers(samples)
        responses = [response for each in groups for response in each.responses]
        rewards_PG = torch.tensor([each.rewards for each in groups])
        return batch_of(responses, rewards_PG, self._tokens.begin, self._tokens.end, self._width)

    def answers(self, samples: Sequence[Sample]) -> list[Answers]:
        """To each of these, as given or as drawn now."""
        if samples[0] in self._given:
            return [self._given[each] for each in samples]
        rolled = self._responder([asked(each) for each in samples])
        self.hear(rolled)
        return rolled.groups

    def best_and_worst(self) -> dict[str, list[dict[str, Any]]]:
        """Of the responses since this was last asked, a few with most reward and with least, best first."""
        told, self._said = [each._asdict() for each in self._said], []
        return {"best": told[:EXTREMES], "worst": told[EXTREMES:][-EXTREMES:]}


def asked(sample: Sample) -> Asked:
    """What a row of `PromptRows` asks."""
    return Asked(*sample.rows.prompt_and_answer(sample.number), sample.draw)
