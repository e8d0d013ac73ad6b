"""Responses that others draw than those that learn, as all ranks see it that learn.

The global batch's prompts are dealt out in parts of `microBatch`, the very batches in which a rank that draws for itself would
read them, so what comes back is the same to the bit, whoever drew it. With `overlap` the next batch is asked for, by the
weights of now, before this one is learned from. What was drawn and not yet learned from is part of every checkpoint: the
weights that have drawn it are no longer there to draw it again.

A prompt is asked (dispatched), answered and rewarded in one call, and learned from: each of these once, or again to the same
bits.
"""

import math
from collections.abc import Sequence
from itertools import chain
from types import TracebackType
from typing import Any

import torch
from torch import Tensor
from trainyard_api.rollout_stages import RolloutStage

from ..data.objectives.objective import Sample
from ..engine import processes
from ..engine.batches import Batches
from ..engine.engine import Engine
from ..errors import StopRequested
from ..group import Group
from .fleet import Fleet
from .responding import Answers, Asked, Rolled
from .rollout_engines import Setup
from .rollouts import Rollouts, asked
from .rows import Response
from .weights import weights_of


class Apart:
    """Those that draw for the ranks of a group; on rank 0 there is a fleet."""

    def __init__(self, stage: RolloutStage, group: Group) -> None:
        """Start what takes long to start. `group` is of those that learn."""
        self._stage, self._group = stage, group
        self._fleet = Fleet(group, stage.rollout.workers) if group.rank == 0 else None
        self._engine: Engine
        self._batches: Batches
        self._objective: Rollouts
        self._ahead = 0
        """The batch that is drawn ahead, on all ranks; 0 is none."""
        self._awaited: list[Any] = []
        """What rank 0 waits for of it,"""
        self._rolled: list[Rolled] = []
        """or what has come of it."""

    def __enter__(self) -> "Apart":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._fleet and isinstance(error, StopRequested):
            self._fleet.close("stopped")

    def connect(self) -> None:
        """Have models that draw started, while this rank does something else."""
        if self._fleet:
            self._fleet.connect()

    def begin(
        self, engine: Engine, batches: Batches, objective: Rollouts, setup: Setup, saved: dict[str, Tensor]
    ) -> None:
        """With what a checkpoint had of `tensors`, on rank 0."""
        self._engine, self._batches, self._objective = engine, batches, objective
        if self._fleet:
            self._fleet.begin(setup)
        known = saved if self._fits(saved) else {}  # else the settings were changed, and it is drawn anew
        if number := processes.from_rank_0(int(known["batch"][0]) if known else 0):
            self._ahead = number
            if self._fleet:
                self._rolled = [self._unpacked(number, saved)]

    def done(self) -> None:
        """All is learned."""
        if self._fleet:
            self._fleet.close("done")

    def fetch(self, number: int, *, last: bool) -> None:
        """Give the objective what was drawn for this rank's share of a global batch, and have the next one drawn if there is
        one. A collective.
        """
        samples = self._batches.samples_of(number)
        rolled = self._take(number)
        with self._engine.times.of("generate"):
            mine = processes.deal(self._by_share(rolled) if self._fleet else None)
        own = self._batches.place.share * len(mine.groups)
        self._objective.give(samples[own : own + len(mine.groups)], mine.groups)
        self._objective.hear(mine)
        self._look_ahead(number, last=last)

    def fetch_all(self, number: int, *, last: bool) -> list[Answers]:
        """The same for all of a global batch, as every rank is told. A collective."""
        whole = processes.from_rank_0(_joined(self._take(number)))
        self._objective.hear(whole)
        self._look_ahead(number, last=last)
        return whole.groups

    def fetch_held_out(self, samples: Sequence[Sample]) -> None:
        """Give the objective what was drawn for held-out samples, all of them on each rank. A collective."""
        weights = weights_of(self._engine)
        rolled = []
        if self._fleet:
            self._fleet.push(weights)
            rolled = self._fleet.answers(self._fleet.ask(self._parts(samples)))
        whole = processes.from_rank_0(_joined(rolled))
        self._objective.give(samples, whole.groups)
        self._objective.hear(whole)

    def _take(self, number: int) -> list[Rolled]:
        """What was drawn for a global batch, or is now; on rank 0."""
        if self._fleet:
            self._fleet.hear_stop()
        if self._ahead != number:
            self._ask(number)
        with self._engine.times.of("generate"):
            rolled = self._arrived()
        self._ahead, self._rolled = 0, []
        return rolled

    def _look_ahead(self, number: int, *, last: bool) -> None:
        if self._stage.rollout.overlap and not last:
            self._ask(number + 1)

    def forget(self) -> None:
        """Draw anew what was drawn, by weights that are given anew."""
        self._ahead, self._awaited, self._rolled = 0, [], []

    def _ask(self, number: int) -> None:
        """Have a batch drawn, by the weights of now."""
        with self._engine.times.of("push"):
            weights = weights_of(self._engine)
            if self._fleet:
                self._fleet.push(weights)
                self._awaited = self._fleet.ask(self._parts(self._batches.samples_of(number)))
        self._ahead = number

    def _arrived(self) -> list[Rolled]:
        """What was drawn for the batch that is drawn ahead, on rank 0; nothing on others."""
        if self._fleet and self._awaited:
            self._rolled, self._awaited = self._fleet.answers(self._awaited), []
        return self._rolled

    def _parts(self, samples: Sequence[Sample]) -> list[list[Asked]]:
        """Of `microBatch` prompts each; vLLM makes batches by itself, so each model gets its share at once."""
        assert self._fleet
        at_once = self._stage.micro_batch
        if self._stage.rollout.engine == "VLLM":
            at_once = -(-len(samples) // self._fleet.models)
        return [[asked(each) for each in samples[at : at + at_once]] for at in range(0, len(samples), at_once)]

    def _by_share(self, rolled: Sequence[Rolled]) -> list[Rolled]:
        """What each rank gets of a global batch."""
        groups, said, trouble = _joined(rolled)
        each = len(groups) // self._group.world_size
        return [Rolled(groups[at : at + each], [] if at else said, trouble) for at in range(0, len(groups), each)]

    def tensors(self) -> dict[str, Tensor]:
        """What was drawn and not yet learned from, on rank 0, always of the same shapes; nothing on others, and without
        `overlap`.
        """
        if not self._fleet or not self._stage.rollout.overlap:
            return {}
        how = self._stage.rollout
        responses = self._stage.global_batch * how.responses
        tokens = torch.zeros(responses, how.max_new_tokens, dtype=torch.int64)
        log_probabilities = torch.zeros(responses, how.max_new_tokens)
        lengths = torch.zeros(responses, 2, dtype=torch.int64)
        heard = torch.zeros(responses, how.max_new_tokens, dtype=torch.uint8)
        rewards = torch.zeros(responses)
        groups = [group for each in self._arrived() for group in each.groups]
        for row, (response, reward) in enumerate(chain(*(zip(*each, strict=True) for each in groups))):
            length = len(response.tokens)
            tokens[row, :length] = torch.tensor(response.tokens)
            log_probabilities[row, :length] = torch.tensor(response.log_probabilities)
            lengths[row] = torch.tensor([length, response.truncated])
            heard[row, [*response.heard]] = 1
            rewards[row] = reward
        return {
            "batch": torch.tensor([self._ahead]),
            "tokens": tokens,
            "log_probabilities": log_probabilities,
            "lengths": lengths,
            "heard": heard,
            "rewards": rewards,
        }

    def _fits(self, saved: dict[str, Tensor]) -> bool:
        how = self._stage.rollout
        wanted = (self._stage.global_batch * how.responses, how.max_new_tokens)
        return "heard" in saved and saved["heard"].shape == wanted

    def _unpacked(self, number: int, saved: dict[str, Tensor]) -> Rolled:
        """What `tensors` has told of the responses to a batch."""
        group = self._stage.rollout.responses
        prompts = [asked(each).prompt for each in self._batches.samples_of(number) for _ in range(group)]
        names = "tokens", "log_probabilities", "lengths", "heard"
        rows = zip(prompts, *(saved[name].tolist() for name in names), strict=True)
        responses = [
            Response(
                prompt,
                tokens[:length],
                log_probabilities[:length],
                bool(truncated),
                frozenset(at for at, each in enumerate(heard) if each),
            )
            for prompt, tokens, log_probabilities, (length, truncated), heard in rows
        ]
        rewards: list[float] = saved["rewards"].tolist()
        unknown = any(map(math.isnan, rewards))
        starts = range(0, len(responses), group)
        groups = [Answers(responses[at : at + group], rewards[at : at + group]) for at in starts]
        return Rolled(groups, [], "told before this attempt" if unknown else "")


def _joined(rolled: Sequence[Rolled]) -> Rolled:
    """All of it."""
    groups = [group for each in rolled for group in each.groups]
    trouble = next((each.trouble for each in rolled if each.trouble), "")
    return Rolled(groups, [said for each in rolled for said in each.said], trouble)
