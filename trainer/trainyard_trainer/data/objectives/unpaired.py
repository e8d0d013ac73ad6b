"""Single responses that are good or not, for decoders: rows as those of pairs, where the other of each pair is a response to
another prompt, from which nothing is learned but how far the policy has gone.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from .objective import Sample
from .preferences import PairBatch, PairRows, Preferences


@dataclass(frozen=True)
class UnpairedBatch(PairBatch):
    """Response 2p is the p-th one, 2p + 1 one that answers another prompt."""

    desirable: Tensor
    """bool (P,): whether response 2p is good."""


@dataclass(frozen=True)
class Unpaired(Preferences):
    """In rows of `length` positions."""

    def open(self, folder: Path) -> PairRows:
        """A split, packed."""
        return PairRows(folder, self.length, unpaired=True)

    def batch(self, samples: Sequence[Sample]) -> UnpairedBatch:
        """As that of pairs, with what each response is."""
        pairs = super().batch(samples)
        desirable = [each.rows.desirable[each.rows.row(each.number)] for each in samples]
        return UnpairedBatch(**vars(pairs), desirable=torch.from_numpy(np.concatenate(desirable)))
