"""Global batches with which numbers go wrong, as they do in real training: for a token whose weights are no numbers, and
for text that is noise.
"""

import math
from collections.abc import Iterator, Sequence
from itertools import count
from typing import Any

import numpy as np
import torch

UNUSED = 200
"""A byte's token that the tests' text never has."""


def spoil(no_number: Sequence[int] = (), noise: Sequence[int] = (), weights: Sequence[int] = ()) -> None:
    """In this process, the batches of these numbers are bad: in `no_number` the first micro-batch, in `noise` all of them. Of
    the `weights` that are given to those that draw, those of these times are none that anybody has trained.
    """
    from trainyard_trainer.data.batch import Batch
    from trainyard_trainer.engine.batches import Batches
    from trainyard_trainer.models import origin
    from trainyard_trainer.stages import training

    build = origin.build_model

    def build_model(config: Any, seed: int) -> Any:
        model = build(config, seed)
        model.get_input_embeddings().weight.data[UNUSED] = math.nan
        return model

    class BadBatches(Batches):
        def micro_batches(self, number: int) -> Iterator[Batch]:
            draw = torch.Generator().manual_seed(number)
            for n, batch in enumerate(super().micro_batches(number)):
                tokens_BT = batch.inputs["input_ids"]
                if number in no_number and (self.group.rank, n) == (0, 0):
                    tokens_BT[0, 3] = UNUSED
                for each in (tokens_BT, batch.labels) if number in noise else ():
                    each.random_(300, generator=draw)
                    each[each == UNUSED] = 0
                yield batch

    if weights:
        _spoil_weights(weights)
    else:
        origin.build_model, training.Batches = build_model, BadBatches


def _spoil_weights(times: Sequence[int]) -> None:
    from trainyard_trainer.reinforcement import apart

    given, counted = apart.weights_of, count(1)

    def weights_of(engine: Any) -> Any:
        weights = given(engine)
        if next(counted) in times:
            for each in weights.values():
                each.content.view(np.float32)[:] *= -3
        return weights

    apart.weights_of = weights_of
