"""A step of learning from rewards: responses are drawn and rewarded, compared with what was to be expected, and learned from in
one update or several.

All of it follows from the weights, the seed and the batch's number, so a step that is done again is done alike.
"""

import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import chain
from typing import Any

import numpy as np
import torch
from torch import Tensor
from trainyard_api.rollout_stages import GrpoStage, PpoStage, RolloutStage

from ..data.batch import IGNORED, Batch
from ..data.objectives.objective import Sample
from ..engine import processes
from ..engine.batches import Batches
from ..engine.engine import Engine
from ..engine.log_probabilities import LogProbabilities
from ..engine.randomness import generator_of
from ..errors import PermanentError, setting
from ..group import Group
from . import advantages
from .apart import Apart
from .gate import Gate
from .hints import Hints, repetition
from .kl_control import KlControl
from .objective import ActorCriticLoss, PolicyLoss
from .responding import Answers
from .rollouts import Rollouts
from .rows import RolloutBatch


class Reference:
    """The model that the stage begins with, which does not learn."""

    def __init__(self, model: Any, stage: RolloutStage, engine: Engine) -> None:
        self._model = model.to(engine.device, engine.dtype).requires_grad_(False).eval()
        self._log_probabilities = LogProbabilities(self._model, stage.rollout.temperature)

    @torch.no_grad()
    def __call__(self, batch: RolloutBatch) -> Tensor:
        """Log-probabilities of labels, (B, T)."""
        return batch.by_response(self._log_probabilities(self._model, batch.as_read())[batch.is_read])


class Learning:
    """The steps of one stage."""

    def __init__(
        self,
        stage: RolloutStage,
        batches: Batches,
        objective: Rollouts,
        engine: Engine,
        reference: Reference | None,
        group: Group,
        apart: Apart | None,
    ) -> None:
        """`apart` are those that draw, if others do."""
        self._objective, self._apart = objective, apart
        self._stage, self._batches, self._engine, self._reference = stage, batches, engine, reference
        self._seed, self._rank = group.job.seed, group.rank
        assert isinstance(engine.criterion, PolicyLoss)
        self._criterion = engine.criterion
        self.gate = Gate(stage.rollout.max_mismatch, apart.forget if apart else None)
        self.kl_control = KlControl(stage.policy) if isinstance(stage, PpoStage) else None
        self._most_batches = stage.policy.max_batches if isinstance(stage, GrpoStage) else 1
        self.hints = Hints()
        self._more_batches = 0
        """That the step has drawn from beside its own."""
        self._away = 0.0, 0.0
        """Nats a token from the reference, of so many responses."""
        self.figures: dict[str, float] = {}
        """Of the last step, beside those of the criterion: `reward_deviation` of responses, how many were `left_out`, the
        `repetition` in them; of PPO
        `explained_variance`, the part of the returns' variance that the critic knew before it learned from them, and
        `kl_cost`; and `drawn_prompts`, where that may be more than are learned from.
        """

    def updates(self, number: int, *, last: bool) -> Iterator[Sequence[RolloutBatch]]:
        """This rank's micro-batches of each update of a step, on a global batch's prompts; the last one, or not. A collective,
        as is each update.
        """
        own: list[Any] = [batch.to(self._engine.device) for batch in self._drawn(number, last=last)]
        with self._engine.times.of("score"):
            own = self._compared([self._judged(each) for each in own])
        for epoch in range(self._stage.policy.epochs):
            yield from self._dealt(own, number, epoch)

    def made(self, shown: Mapping[str, float]) -> dict[str, float]:
        """The step is made, of which the criterion shows this: what there is to be shown of it, and what follows from it for
        the next one.
        """
        figures = {**shown, **self.figures}
        self.hints.step(figures)
        self._engine.numerics.passed += self._more_batches
        if self.kl_control:
            self.kl_control.observe(*self._away)
        return figures

    def samples(self) -> dict[str, list[Any]]:
        """What people may want to read: responses since this was last asked, and `hints`."""
        return {**self._objective.best_and_worst(), "hints": self.hints.said()}

    def _drawn(self, number: int, *, last: bool) -> Iterable[Batch]:
        """This rank's share of responses to a global batch, or to the informative prompts of several."""
        if self._most_batches == 1:
            if self._apart:
                self._apart.fetch(number, last=last)
            return self._batches.micro_batches(number)
        informative: list[tuple[Sample, Answers]] = []
        others: list[tuple[Sample, Answers]] = []
        wanted, at_once = self._stage.global_batch, self._stage.micro_batch
        for more in range(self._most_batches):
            self._more_batches = more
            for each in self._of_all(number + more, last=last):
                (informative if each[1].informative else others).append(each)
            if len(informative) >= wanted:
                break
        self.figures["drawn_prompts"] = wanted * (1 + self._more_batches)
        share = wanted // self._batches.place.shares
        first = self._batches.place.share * share
        samples, answers = zip(*[*informative, *others][first : first + share], strict=True)
        self._objective.give(samples, answers)
        return [self._objective.batch(samples[at : at + at_once]) for at in range(0, share, at_once)]

    def _of_all(self, number: int, *, last: bool) -> list[tuple[Sample, Answers]]:
        """All ranks' prompts of a global batch, with the responses. A collective."""
        samples = self._batches.samples_of(number)
        if self._apart:
            return [*zip(samples, self._apart.fetch_all(number, last=last), strict=True)]
        share, at_once = len(samples) // self._batches.place.shares, self._stage.micro_batch
        first = self._batches.place.share * share
        starts = range(first, first + share, at_once)
        mine = [each for at in starts for each in self._objective.answers(samples[at : at + at_once])]
        return [*zip(samples, chain(*processes.gather(mine)), strict=True)]

    def _dealt(self, own: list[RolloutBatch], number: int, epoch: int) -> list[list[RolloutBatch]]:
        """In as many parts as there are mini-batches, by chance."""
        parts = self._stage.policy.mini_batches
        if parts == 1:
            return [own]
        order = generator_of(self._seed, number, epoch, self._rank).permutation(len(own))
        return [[own[place] for place in places] for places in np.split(order, parts)]

    def _judged(self, batch: RolloutBatch) -> RolloutBatch:
        """With what the policy, the reference and the critic say of it before the step."""
        known: dict[str, Tensor] = {}
        if self._stage.updates > 1 or isinstance(self._stage, PpoStage):
            known["old"] = self._engine.without_gradients(self._criterion.log_probabilities, batch)
        if self._reference:
            known["reference"] = self._reference(batch)
        if isinstance(self._criterion, ActorCriticLoss):
            known["values"] = self._engine.without_gradients(self._criterion.values, batch)
        return replace(batch, **known)

    def _compared(self, own: list[RolloutBatch]) -> list[RolloutBatch]:
        """With advantages, of which some are relative to the whole global batch. A collective."""
        rewards = torch.cat([each.rewards[each.counts] for each in own])
        _, variance = _moments(rewards)
        self.figures |= {"reward_deviation": variance**0.5, "left_out": self._left_out(own)}
        repeated, responses = processes.add_up(*_repetition(own))
        self.figures["repetition"] = repeated / max(1.0, responses)
        if isinstance(self._stage, GrpoStage):
            compared = [of_groups(each.rewards, each.counts, self._stage.policy.advantage) for each in own]
            if self._stage.policy.advantage == "Batch":
                centred = torch.cat([each[batch.counts] for each, batch in zip(compared, own, strict=True)])
                _, variance = _moments(centred)
                compared = [advantages.of_batch(each, 0.0, variance**0.5) for each in compared]
            return [
                replace(batch, advantages=each.flatten()[:, None] * batch.counted)
                for batch, each in zip(own, compared, strict=True)
            ]
        assert isinstance(self._stage, PpoStage)
        return self._by_critic(own, self._stage)

    def _left_out(self, own: list[RolloutBatch]) -> float:
        """Responses of all ranks that could not be rewarded. PermanentError if that is all of them. A collective."""
        mine = sum(int((~each.counts).sum()) for each in own)
        left_out, drawn = processes.add_up(mine, sum(each.counts.numel() for each in own))
        if mine:
            print(f"{mine} responses can't be rewarded and are left out: {self._objective.trouble}", file=sys.stderr)
        if left_out == drawn:
            said = next(filter(None, processes.gather(self._objective.trouble)), "")
            raise PermanentError(f"{setting('rewards')}: none of {drawn:.0f} responses can be rewarded: {said}")
        return left_out

    def _by_critic(self, own: list[RolloutBatch], stage: PpoStage) -> list[RolloutBatch]:
        """Generalised advantages, whitened, and returns."""
        assert self.kl_control
        found = []
        self.figures["kl_cost"] = self.kl_control.cost
        if stage.policy.kl:
            away, _ = _moments(torch.cat([(each.old - each.reference)[each.counted] for each in own]))
            [responses] = processes.add_up(sum(each.num_labels for each in own))
            self._away = away, responses
        for batch in own:
            rewards_BT = rewards_of_tokens(batch, self.kl_control.cost)
            advantages_BT, returns_BT = advantages.generalised(
                rewards_BT, batch.values, batch.counted, stage.policy.discount, stage.policy.decay
            )
            found.append(replace(batch, advantages=advantages_BT, returns=returns_BT))
        mean, variance = _moments(_of(found, "advantages"))
        _, of_returns = _moments(_of(found, "returns"))
        _, of_errors = _moments(_of(found, "returns") - _of(found, "values"))
        self.figures["explained_variance"] = 1 - of_errors / max(of_returns, 1e-8)
        return [
            replace(batch, advantages=advantages.whitened(batch.advantages, batch.counted, mean, variance))
            for batch in found
        ]


def of_groups(rewards_PG: Tensor, counts_PG: Tensor, advantage: str) -> Tensor:
    """Advantages (P, G) among the responses of each group that count; 0 of the others, and of one that is alone."""
    found_PG = torch.zeros_like(rewards_PG)
    for found_G, rewards_G, counts_G in zip(found_PG, rewards_PG, counts_PG, strict=True):
        if counts_G.sum() < 2:
            continue
        known_1G = rewards_G[counts_G][None]
        if advantage == "LeaveOneOut":
            found_G[counts_G] = advantages.leave_one_out(known_1G)[0]
        else:
            found_G[counts_G] = advantages.of_group(known_1G, by_deviation=advantage == "Group")[0]
    return found_PG


def rewards_of_tokens(batch: RolloutBatch, kl: float) -> Tensor:
    """What each token is given, (B, T): what going away from the reference costs (Huang et al. 2024, arXiv 2403.17031, section
    2), and the last one the response's reward.
    """
    counted_BT = batch.counted
    rewards_BT = -kl * (batch.old - batch.reference) * counted_BT
    last_B = counted_BT.shape[1] - 1 - counted_BT.flip(1).int().argmax(1)
    given_B = batch.rewards.flatten() * counted_BT.any(1)
    return rewards_BT.scatter_add(1, last_B[:, None], given_B[:, None])


def _repetition(own: list[RolloutBatch]) -> tuple[float, int]:
    """How much responses repeat themselves, in sum, and how many there are."""
    said = [[token for token in row if token != IGNORED] for each in own for row in each.labels.tolist()]
    return sum(map(repetition, said)), len(said)


def _of(batches: list[RolloutBatch], field: str) -> Tensor:
    """Of all tokens that count, (N,)."""
    return torch.cat([getattr(each, field)[each.counted] for each in batches])


def _moments(mine: Tensor) -> tuple[float, float]:
    """Mean and variance over all ranks' values. A collective."""
    total, count = processes.add_up(float(mine.sum(dtype=torch.float64)), len(mine))
    mean = total / max(1.0, count)
    [squares] = processes.add_up(float(((mine.double() - mean) ** 2).sum()))
    return mean, squares / max(1.0, count)
