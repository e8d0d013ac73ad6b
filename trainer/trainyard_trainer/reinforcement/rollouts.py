"""The model's own responses to prompts, as what it trains on: drawn, rewarded and compared within their group when a batch is
wanted, so that they are never of an older model.

A prompt is a conversation up to its last response, which reward functions are told as the answer. What is drawn follows from
the weights, the seed and the prompts' positions in the order of data alone: a step that is done again draws the same.
"""

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from trainyard_api.training_stages import GrpoStage, RolloutStage

from ..data.batch import IGNORED, PADDING, Batch
from ..data.fetched import fetch_file
from ..data.objectives.objective import Sample
from ..data.shards import RESPONSES, TokenShards
from ..data.special_tokens import SpecialTokens
from ..data.tokenizer import load_tokenizer
from ..engine.step_times import StepTimes
from ..errors import PermanentError, setting
from ..group import Group
from .generating import Drawn
from .losses import overlong_penalty
from .reward_functions import RewardFunction
from .scorers import RewardModel

Draw = Callable[[Tensor, Tensor, Tensor], Drawn]
"""Continues prompts (P, T), of which the mask (P, T) says what is there, each G times, by as many tokens as there are uniform
numbers (P · G, N).
"""
Reward = RewardFunction | RewardModel


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


@dataclass(frozen=True)
class RolloutBatch(Batch):
    """A row of labels is a response, B = P · G of them, of at most T tokens. A label is a response that counts: one that all
    could reward. The model reads other rows, a response after its prompt or a prompt and all responses to it.
    """

    read: Tensor
    """int64, in the shape of the rows that the model reads: the labels in the same order, IGNORED where none is."""
    counts: Tensor
    """bool (P, G)."""
    rewards: Tensor
    """float (P, G): 0 where a response does not count."""
    truncated: Tensor
    """bool (P, G): whether it was cut off at the most tokens that it may have."""
    rolled_out: Tensor
    """float (B, T): log-probabilities of labels, as they were drawn; 0 where there is none. So have all that follow, which
    `Learning` fills in.
    """
    old: Tensor
    """Log-probabilities by the policy that has drawn them, as training works them out."""
    reference: Tensor
    """By the model that the stage begins with."""
    advantages: Tensor
    values: Tensor
    """The critic's, before the step."""
    returns: Tensor
    """What values are to become."""

    @property
    def num_labels(self) -> int:
        """Responses that count."""
        return int(self.counts.sum())

    def labels_of_rows(self) -> Tensor:
        """Responses that count, by prompt."""
        return self.counts.sum(1)

    @property
    def counted(self) -> Tensor:
        """bool (B, T): tokens of responses that count."""
        return (self.labels != IGNORED) & self.counts.flatten()[:, None]

    def by_response(self, found_N: Tensor) -> Tensor:
        """What was found for each label, one after the other, (B, T); 0 where none is."""
        none_BT = torch.zeros(self.labels.shape, dtype=found_N.dtype, device=found_N.device)
        return none_BT.masked_scatter(self.labels != IGNORED, found_N)


class Response(NamedTuple):
    """One that was drawn."""

    prompt: list[int]
    tokens: list[int]
    """The end among them, unless it was cut off before."""
    log_probabilities: list[float]
    truncated: bool


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
        labels_BT = _padded([each.tokens for each in responses], IGNORED)
        rolled_out_BT = _padded([each.log_probabilities for each in responses], 0.0)
        inputs, read = self._rows(responses)
        rewards_PG, unknown_BT = rewards.view(len(samples), group), torch.zeros_like(rolled_out_BT)
        return RolloutBatch(
            inputs,
            labels_BT,
            read,
            counts=~rewards_PG.isnan(),
            rewards=rewards_PG.nan_to_num(),
            truncated=torch.tensor([each.truncated for each in responses]).view(len(samples), group),
            rolled_out=rolled_out_BT,
            old=rolled_out_BT,
            reference=rolled_out_BT,
            advantages=unknown_BT,
            values=unknown_BT,
            returns=unknown_BT,
        )

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
        key = hashlib.sha256(f"{self._seed} {position} {number}".encode()).digest()[:16]
        generator = np.random.Generator(np.random.Philox(key=int.from_bytes(key)))
        return generator.random(self._stage.rollout.max_new_tokens)

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
        said = zip(total.tolist(), *columns.values(), strict=True)
        known = sorted([*self._extremes, *(Said(*each) for each in said if not math.isnan(each[0]))], reverse=True)
        self._extremes = known if len(known) <= 2 * _EXTREMES else known[:_EXTREMES] + known[-_EXTREMES:]
        return total

    def _rows(self, responses: list[Response]) -> tuple[dict[str, Tensor], Tensor]:
        """What the model reads, and the labels there: responses to a prompt share it in one row where that is less work."""
        begin, group = self._tokens.begin, self._stage.rollout.responses
        groups = [responses[start : start + group] for start in range(0, len(responses), group)]
        if not worth_sharing([(len(each[0].prompt), [len(it.tokens) for it in each]) for each in groups], self._width):
            groups = [[each] for each in responses]
        shared = [[begin, *each[0].prompt] for each in groups]
        tokens, positions, labels, segments = [], [], [], []
        for prompt, said in zip(shared, groups, strict=True):
            before = len(prompt) - 1  # the last token says what comes next, which is another for each response
            parts = [[prompt[-1], *each.tokens[:-1]] for each in said]
            tokens.append([*prompt[:-1], *chain(*parts)])
            positions.append([*range(before), *(before + at for part in parts for at in range(len(part)))])
            labels.append([IGNORED] * before + [*chain(*(each.tokens for each in said))])
            segments.append([_PROMPT] * before + [number for number, part in enumerate(parts) for _ in part])
        inputs = {"input_ids": _padded(tokens, self._tokens.end), "position_ids": _padded(positions, 0)}
        if len(groups) < len(responses):
            segments_PT = _padded(segments, PADDING)
            seen_PTT = segments_PT[:, None, :] == segments_PT[:, :, None]
            seen_PTT |= segments_PT[:, None, :] == _PROMPT
            inputs["attention_mask"] = seen_PTT.tril()[:, None]
        return inputs, _padded(labels, IGNORED)


_PROMPT = -2
"""The segment of a shared prompt; responses count from 0."""


def worth_sharing(groups: Sequence[tuple[int, Sequence[int]]], width: int) -> bool:
    """Whether responses that share their prompt cost less, for (tokens of the prompt, tokens of each response): of a layer,
    24 · width² FLOPs for each position, and 4 · width for each pair of positions in a row, seen or not. Rows are padded.
    """

    def cost(rows: Sequence[int]) -> int:
        positions = len(rows) * max(rows)
        return positions * (24 * width**2 + 4 * width * max(rows))

    together = [prompt + sum(said) for prompt, said in groups]
    apart = [prompt + tokens for prompt, said in groups for tokens in said]
    return cost(together) < cost(apart)


def _padded(rows: Sequence[Sequence[float]], value: float) -> Tensor:
    """Rows, each followed by as many of the value as the longest has more tokens."""
    longest = max(map(len, rows))
    return torch.tensor([[*row, *[value] * (longest - len(row))] for row in rows])


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
