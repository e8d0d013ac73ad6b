"""Sequences of a split: sample i is the sequence_length + 1 tokens from i × sequence_length on, so that every token but
the first is predicted exactly once. No padding, and documents follow one another with an end-of-text token between.
"""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor
from trainyard_api.stages import PretrainStage

from ..data.order import Order
from ..data.shards import TokenShards
from ..errors import PermanentError
from ..group import Group
from . import processes
from .engine import Engine


class Batches:
    """The global batches of training: step → this rank's micro-batches, a pure function of (seed, step)."""

    def __init__(self, tokens: TokenShards, stage: PretrainStage, group: Group) -> None:
        self.tokens, self.stage, self.group = tokens, stage, group
        samples = num_samples(tokens, stage.sequence_length)
        if samples < stage.global_batch:
            raise PermanentError(
                f"pretrain.globalBatch: {stage.global_batch} sequences of {stage.sequence_length} tokens are more than the "
                f"training split holds ({len(tokens)} tokens, {samples} sequences); lower pretrain.globalBatch or "
                "pretrain.sequenceLength, or prepare more text"
            )
        at_once = group.world_size * stage.micro_batch
        if stage.global_batch % at_once:
            raise PermanentError(
                f"pretrain.globalBatch: {stage.global_batch} is not divisible by {group.world_size} ranks × microBatch "
                f"{stage.micro_batch}; use a multiple of {at_once}"
            )
        self.order = Order(group.job.seed, samples)
        self.accumulation = stage.global_batch // at_once

    def positions(self, step: int) -> range:
        """The positions in the order of data that make up the global batch of `step` (1, 2, …)."""
        return range((step - 1) * self.stage.global_batch, step * self.stage.global_batch)

    def micro_batches(self, step: int) -> Iterator[Tensor]:
        """Step `step` (1, 2, …): `accumulation` tensors of int64 (micro_batch, sequence_length + 1)."""
        share = self.accumulation * self.stage.micro_batch
        first = self.positions(step).start + self.group.rank * share
        samples = self.order.samples(first, share).tolist()
        for start in range(0, share, self.stage.micro_batch):
            yield read_samples(self.tokens, samples[start : start + self.stage.micro_batch], self.stage.sequence_length)


class HeldOut:
    """The held-out sequences that validation measures on: the first ones, the same at every step and world size."""

    def __init__(self, tokens: TokenShards, stage: PretrainStage, group: Group) -> None:
        self.tokens, self.stage, self.group = tokens, stage, group
        self.count = min(stage.validation.sequences, num_samples(tokens, stage.sequence_length))
        if not self.count:
            raise PermanentError(
                f"pretrain.sequenceLength: {stage.sequence_length} is more than the held-out split holds ({len(tokens)} "
                "tokens); lower it, raise prepare.heldOutFraction, or prepare more text"
            )

    def loss(self, engine: Engine) -> float:
        """Mean loss per token, in nats. Every rank runs equally many forwards; those past the end don't count."""
        total = 0.0
        at_once = self.stage.micro_batch
        for start in range(0, self.count, at_once * self.group.world_size):
            first = start + self.group.rank * at_once
            mine = range(first, min(first + at_once, self.count))
            tokens_BT = read_samples(self.tokens, list(mine) or [0], self.stage.sequence_length)
            total += float(engine.sequence_losses(tokens_BT)[: len(mine)].sum())
        return processes.add_up(total)[0] / (self.count * self.stage.sequence_length)


def num_samples(tokens: TokenShards, sequence_length: int) -> int:
    """Whole samples in a split; what is left at its end is less than one sequence."""
    return max(0, (len(tokens) - 1) // sequence_length)


def read_samples(tokens: TokenShards, samples: list[int], sequence_length: int) -> Tensor:
    """int64 (len(samples), sequence_length + 1)"""
    windows = [tokens.window(sample * sequence_length, sequence_length + 1) for sample in samples]
    return torch.from_numpy(np.stack(windows))
