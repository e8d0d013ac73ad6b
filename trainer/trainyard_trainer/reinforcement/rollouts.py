"""The model's own responses to prompts, as what it trains on: drawn, rewarded and compared within their group when a batch is
wanted, so that they are never of an older model.

A prompt is a conversation up to its last response, which reward functions are told as the answer. What is drawn follows from
the weights, the seed and the prompts' positions in the order of data alone: a step that is done again draws the same.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from trainyard_api.training_stages import GrpoStage

from ..data.batch import IGNORED, Batch
from ..data.fetched import fetch_file
from ..data.objectives.objective import Sample
from ..data.shards import RESPONSES, TokenShards
from ..data.special_tokens import SpecialTokens
from ..data.tokenizer import load_tokenizer
from ..errors import PermanentError, setting
from ..group import Group
from . import advantages
from .losses import overlong_penalty
from .reward_functions import RewardFunction


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
    """A row is a response after its prompt, P · G of them. A label is a response that counts: one that all functions could
    reward.
    """

    counts: Tensor
    """bool (P, G)."""
    advantages: Tensor
    """float (P, G): 0 where a response does not count."""
    rewards: Tensor
    """float (P, G): likewise."""
    truncated: Tensor
    """bool (P, G): whether it was cut off at the most tokens that it may have."""

    @property
    def num_labels(self) -> int:
        """Responses that count."""
        return int(self.counts.sum())

    def labels_of_rows(self) -> Tensor:
        """Responses that count, by prompt."""
        return self.counts.sum(1)


class _Drawn(NamedTuple):
    """A response."""

    prompt: list[int]
    response: list[int]
    truncated: bool


class Rollouts:
    """The objective of learning from rewards. `begin` comes first."""

    def __init__(
        self,
        stage: GrpoStage,
        tokens: SpecialTokens,
        tokenizer: Path,
        functions: Sequence[RewardFunction],
        seed: int,
    ) -> None:
        self._stage, self._tokens, self._functions, self._seed = stage, tokens, functions, seed
        self._tokenizer = load_tokenizer(tokenizer)
        self._write: Callable[[Tensor, Tensor, int, float], Tensor]
        self.trouble = ""
        """Why responses were left out, the last time that some were."""
        self.left_out = 0
        """Responses so far."""

    def begin(self, write: Callable[[Tensor, Tensor, int, float], Tensor]) -> None:
        """`write` continues rows (B, T), of which the mask (B, T) says what is there, by so many tokens at a temperature."""
        self._write = write

    def open(self, folder: Path) -> PromptRows:
        """A split of conversations."""
        return PromptRows(folder, self._stage.sequence_length - self._stage.rollout.max_new_tokens - 1)

    def batch(self, samples: Sequence[Sample]) -> RolloutBatch:
        """A group of responses to each prompt, one after the other."""
        group = self._stage.rollout.responses
        asked = [each.rows.prompt_and_answer(each.number) for each in samples for _ in range(group)]
        drawn = self._draw([prompt for prompt, _ in asked], samples)
        rewards = self._rewards(drawn, [answer for _, answer in asked])
        rewards_PG = rewards.view(len(samples), group)
        inputs, labels_BT = self._as_rows(drawn)
        return RolloutBatch(
            inputs,
            labels_BT,
            counts=~rewards_PG.isnan(),
            advantages=torch.stack([self._advantages(each) for each in rewards_PG]),
            rewards=rewards_PG.nan_to_num(),
            truncated=torch.tensor([each.truncated for each in drawn]).view(len(samples), group),
        )

    def _draw(self, prompts: list[list[int]], samples: Sequence[Sample]) -> list[_Drawn]:
        """One response to each; padded on the left, for that is where generating begins."""
        longest = 1 + max(map(len, prompts))
        tokens_BT = torch.full((len(prompts), longest), self._tokens.end)
        mask_BT = torch.zeros_like(tokens_BT)
        for row, prompt in enumerate(prompts):
            tokens_BT[row, longest - len(prompt) - 1 :] = torch.tensor([self._tokens.begin, *prompt])
            mask_BT[row, longest - len(prompt) - 1 :] = 1
        drawn_at = "/".join(str(each.draw) for each in samples)
        seed = int.from_bytes(hashlib.sha256(f"{self._seed} {drawn_at}".encode()).digest()[:4]) % 2**31
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            how = self._stage.rollout
            written = self._write(tokens_BT, mask_BT, how.max_new_tokens, how.temperature)[:, longest:].tolist()
        return [_cut(prompt, said, self._tokens.end) for prompt, said in zip(prompts, written, strict=True)]

    def _rewards(self, drawn: list[_Drawn], answers: list[list[int]]) -> Tensor:
        """float (B,), not a number where a function could not tell."""
        decode = self._tokenizer.decode
        columns = {
            "prompts": [decode(each.prompt) for each in drawn],
            "completions": [decode(each.response).strip() for each in drawn],
            "answers": [decode(each).strip() for each in answers],
        }
        total = torch.zeros(len(drawn))
        for function, settings in zip(self._functions, self._stage.rewards, strict=True):
            given = function(**columns)
            self.trouble = f"{settings.function}: {given.trouble}" if given.trouble else self.trouble
            total += settings.weight * torch.tensor([torch.nan if each is None else each for each in given.rewards])
        if margin := self._stage.policy.overlong_margin:
            lengths = torch.tensor([float(len(each.response)) for each in drawn])
            total += overlong_penalty(lengths, self._stage.rollout.max_new_tokens, margin)
        self.left_out += int(total.isnan().sum())
        return total

    def _advantages(self, rewards_G: Tensor) -> Tensor:
        """Of a group, among those that count; 0 of the others, and of one that is alone."""
        counts_G = ~rewards_G.isnan()
        found_G = torch.zeros_like(rewards_G)
        if counts_G.sum() < 2:
            return found_G
        known_1G = rewards_G[counts_G][None]
        match self._stage.policy.advantage:
            case "Group":
                found_1G = advantages.of_group(known_1G)
            case "Centred":
                found_1G = advantages.of_group(known_1G, by_deviation=False)
            case "LeaveOneOut":
                found_1G = advantages.leave_one_out(known_1G)
        found_G[counts_G] = found_1G[0]
        return found_G

    def _as_rows(self, drawn: list[_Drawn]) -> tuple[dict[str, Tensor], Tensor]:
        """Each after the token that begins a document, padded on the right by what nothing before it sees."""
        length = max(len(each.prompt) + len(each.response) for each in drawn)
        inputs_BT = torch.full((len(drawn), length), self._tokens.end)
        labels_BT = torch.full((len(drawn), length), IGNORED)
        for row, each in enumerate(drawn):
            tokens = torch.tensor([self._tokens.begin, *each.prompt, *each.response])
            inputs_BT[row, : len(tokens) - 1] = tokens[:-1]
            labels_BT[row, len(each.prompt) : len(tokens) - 1] = tokens[1 + len(each.prompt) :]
        positions_BT = torch.arange(length).expand(len(drawn), length)
        return {"input_ids": inputs_BT, "position_ids": positions_BT.contiguous()}, labels_BT


def _cut(prompt: list[int], said: list[int], end: int) -> _Drawn:
    """A response up to the first end of text, which it says itself."""
    if end in said:
        return _Drawn(prompt, said[: said.index(end) + 1], truncated=False)
    return _Drawn(prompt, said, truncated=True)


def reward_functions(stage: GrpoStage, group: Group, note: Callable[[str], object]) -> list[RewardFunction]:
    """Those of the settings, each in its process. Relative files are below the storage root."""

    def place(given: str, field: str) -> str:
        path, _, name = given.rpartition(":")
        if not path.endswith(".py"):
            return given
        return f"{fetch_file(path, group.job.storage_uri, field, note)}:{name}"

    fields = [f"rewards[{number}].function" for number in range(len(stage.rewards))]
    return [
        RewardFunction(place(each.function, setting(field)), setting(field), each.timeout_seconds)
        for field, each in zip(fields, stage.rewards, strict=True)
    ]
