"""The global batches of a training, and the held-out ones, from rows that an objective has packed.

Parts are the splits that a mixture is made of, by the field that names each (TrainingStage.parts); `data` is one part.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor
from trainyard_api.training_stages import TrainingStage

from ..data.batch import Batch
from ..data.mixture import Mixture
from ..data.objectives.objective import Objective, Rows, Sample
from ..data.order import Order
from ..errors import PermanentError, setting
from ..group import Group
from . import processes
from .engine import Engine
from .place import Place


class Batches:
    """The global batches of training, 1, 2, …: number → this rank's micro-batches, a pure function of (seed, number)."""

    def __init__(self, parts: Mapping[str, Rows], objective: Objective, stage: TrainingStage, group: Group) -> None:
        self.parts, self.objective, self.stage, self.group = list(parts.values()), objective, stage, group
        _refuse_small_parts(parts, stage)
        self.place = Place.of(stage, group)
        at_once = self.place.shares * stage.micro_batch * stage.mini_batches
        if stage.global_batch % at_once:
            raise PermanentError(
                f"{setting('globalBatch')}: {stage.global_batch} is not divisible by {self.place.shares} ranks × microBatch "
                f"{stage.micro_batch}{f' × {stage.mini_batches} mini-batches' if stage.mini_batches > 1 else ''}; use a "
                f"multiple of {at_once}"
            )
        self.mixture = Mixture(
            group.job.seed,
            weights=[part.weight for part in stage.parts.values()],
            num_samples=[len(rows) for rows in self.parts],
        )
        self.accumulation = stage.global_batch // (self.place.shares * stage.micro_batch)
        """Micro-batches of this rank's share of a global batch."""

    def positions(self, number: int) -> range:
        """The positions in the order of data that make up a global batch."""
        return range((number - 1) * self.stage.global_batch, number * self.stage.global_batch)

    def positions_of(self, number: int, micro_batch: int) -> range:
        """Those of them that are this rank's micro-batch 0, 1, … of it."""
        before = self.place.share * self.accumulation + micro_batch
        first = self.positions(number).start + before * self.stage.micro_batch
        return range(first, first + self.stage.micro_batch)

    def samples(self, positions: Sequence[int]) -> dict[str, list[int]]:
        """What lies at these, in ascending order: the samples of each part's training split, by its prepare stage."""
        parts, samples = self.mixture.samples(positions[0], positions[-1] + 1 - positions[0])
        there = np.array(positions) - positions[0]
        parts, samples = parts[there], samples[there]
        names = [part.data for part in self.stage.parts.values()]
        return {name: samples[parts == part].tolist() for part, name in enumerate(names) if (parts == part).any()}

    def micro_batches(self, number: int) -> Iterator[Batch]:
        """This rank's share of a global batch: `accumulation` batches of `micro_batch` rows."""
        share = self.accumulation * self.stage.micro_batch
        first = self.positions_of(number, 0).start
        samples = self._samples(range(first, first + share))
        for start in range(0, share, self.stage.micro_batch):
            yield self.place.own(self.objective.batch(samples[start : start + self.stage.micro_batch]))

    def samples_of(self, number: int) -> list[Sample]:
        """All ranks' rows of a global batch."""
        return self._samples(self.positions(number))

    def _samples(self, positions: range) -> list[Sample]:
        parts, numbers = self.mixture.samples(positions.start, len(positions))
        return [
            Sample(self.parts[part], row, position)
            for position, part, row in zip(positions, parts.tolist(), numbers.tolist(), strict=True)
        ]

    def by_part(self, number: int, row_losses: list[tuple[Tensor, Tensor]]) -> list[float]:
        """Of this rank's share of a global batch: each part's losses in sum, then their labels. Nothing without a mixture, or
        where updates are of a part of the batch.
        """
        if not self.stage.mixture or self.stage.mini_batches > 1:
            return []
        share = self.accumulation * self.stage.micro_batch
        parts, _ = self.mixture.samples(self.positions(number).start + self.place.share * share, share)
        columns = [torch.cat([each.cpu().double() for each in column]) for column in zip(*row_losses, strict=True)]
        index = torch.from_numpy(parts).long()
        return [
            sums
            for column in columns
            for sums in torch.zeros(len(self.parts), dtype=torch.float64).index_add(0, index, column).tolist()
        ]

    def part_losses(self, sums: list[float]) -> dict[str, float]:
        """From `by_part` of all ranks: the mean loss of each part that the batch has, as `loss_<its prepare stage>`."""
        names = [part.data for part in self.stage.parts.values()]
        losses, labels = sums[: len(names)], sums[len(names) :]
        return {f"loss_{name}": loss / count for name, loss, count in zip(names, losses, labels, strict=False) if count}


def _refuse_small_parts(parts: Mapping[str, Rows], stage: TrainingStage) -> None:
    """Each part's training split holds at least its share of a global batch."""
    all_weights = sum(part.weight for part in stage.parts.values())
    for (field, part), rows in zip(stage.parts.items(), parts.values(), strict=True):
        if len(rows) * all_weights < stage.global_batch * part.weight:
            share = math.ceil(stage.global_batch * part.weight / all_weights)
            lower = (
                f", {setting('sequenceLength')} or its weight" if stage.mixture else f" or {setting('sequenceLength')}"
            )
            raise PermanentError(
                f"{setting('globalBatch')}: {share} of {stage.global_batch} sequences come from {part.data} "
                f"({setting(field)}), more than its training split holds ({len(rows)} sequences of {stage.sequence_length}); "
                f"lower {setting('globalBatch')}{lower}, or prepare more text"
            )


class HeldOut:
    """The held-out rows that validation measures on: of each part and each set some that are drawn once, the same at every
    step and world size, with the same masks.
    """

    def __init__(self, parts: Mapping[str, Rows], objective: Objective, stage: TrainingStage, group: Group) -> None:
        self.objective, self.stage, self.group = objective, stage, group
        self.place = Place.of(stage, group)
        self.samples = {
            field: [
                Sample(rows, row, row)
                for row in Order(0, len(rows)).samples(0, min(stage.validation.sequences, len(rows))).tolist()
            ]
            for field, rows in parts.items()
        }
        self.before: Callable[[list[Sample]], object] | None = None
        """Told a part's samples before they are measured, on all ranks."""

    def losses(self, engine: Engine, alive: Callable[[], None]) -> dict[str, float] | None:
        """Mean loss per label in nats, as `held_out_loss`, and what else is shown of a batch, likewise: of all parts in the
        mixture's proportions.

        With a mixture also that of each part, as `held_out_loss_<its prepare stage>`, and so that of each validation set.
        None if a stop is asked for meanwhile; `alive` is called now and then.
        """
        measured = {}
        for field, samples in self.samples.items():
            if (means := self._means(engine, samples, alive)) is None:
                return None
            measured[field] = means
        parts = self.stage.parts
        all_weights = sum(part.weight for part in parts.values())
        names = {field: part.data for field, part in parts.items()} if self.stage.mixture else {}
        names |= self.stage.validation_sets
        found = {}
        for number, figure in enumerate(("loss", *engine.criterion.HELD_OUT_FIGURES)):
            weighted = (part.weight * measured[field][number] for field, part in parts.items())
            found[f"held_out_{figure}"] = sum(weighted) / all_weights
            found |= {f"held_out_{figure}_{name}": measured[field][number] for field, name in names.items()}
        return found

    def _means(self, engine: Engine, samples: list[Sample], alive: Callable[[], None]) -> list[float] | None:
        """Of one part: the loss and what else is shown, per label. Every rank runs equally many forwards; those past the end
        don't count.
        """
        if self.before:
            self.before(samples)
        totals, labels = np.zeros(1 + len(engine.criterion.HELD_OUT_FIGURES)), 0
        engine.look_ahead(self._batches(samples))
        for batch, counts in self._batches(samples):
            lost = engine.measure(batch)
            if counts:
                totals += [float(lost.losses.sum(dtype=torch.float64)), *lost.figures.tolist()]
                labels += batch.num_labels
            if any(processes.add_up(self.group.stopping())):
                return None
            alive()
        *all_totals, all_labels = processes.add_up(*totals.tolist(), labels)
        return [total / max(1, all_labels) for total in all_totals]

    def _batches(self, samples: list[Sample]) -> Iterator[tuple[Batch, bool]]:
        """This rank's share, as many batches as any rank's, and whether each counts."""
        at_once = self.stage.micro_batch
        for start in range(0, len(samples), at_once * self.place.shares):
            first = start + self.place.share * at_once
            mine = samples[first : first + at_once]
            yield self.place.own(self.objective.batch(mine or samples[:1])), bool(mine)
