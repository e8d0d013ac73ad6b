"""How good a reward model's scores are: on pairs that it has not learned from, how often it prefers what was preferred, how
sure it is of that and rightly so, and whether it goes by length.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from ..data.objectives.objective import Sample
from ..data.objectives.preferences import PairRows
from ..data.objectives.rewards import Rewards, ScoredPairs
from ..engine import processes
from ..evaluation.intervals import wilson
from ..group import Group

_BINS = np.linspace(0.5, 1, 11)


@dataclass(frozen=True)
class Judged:
    """P pairs in the order of the split."""

    scores: NDArray[np.float64]
    """By each head, of the response that was chosen and of the other one, (P, 2, H)."""
    tokens: NDArray[np.int64]
    """Of these responses, (P, 2)."""


def judge(
    scores: Callable[[ScoredPairs], Tensor],
    objective: Rewards,
    rows: PairRows,
    numbers: Sequence[int],
    group: Group,
    micro_batch: int,
    tell: Callable[[int], None],
) -> Judged:
    """Score the pairs of these rows. A collective: ranks share them, every one runs equally many forwards and gets all scores.

    `tell` hears how many rows this rank has done.
    """
    mine: dict[int, tuple[Any, list[int]]] = {}
    for start in range(0, len(numbers), micro_batch * group.world_size):
        first = start + group.rank * micro_batch
        own = numbers[first : first + micro_batch]
        batch = objective.batch([Sample(rows, number, number) for number in own or numbers[:1]])
        found_P2H = scores(batch).double().cpu().numpy()
        pairs = [pair for number in own for pair in rows.row(number)]
        for pair, found_2H in zip(pairs, found_P2H, strict=False):
            mine[pair] = found_2H, [int(learned_T.sum()) for learned_T in rows.learned(pair)]
        tell(start // group.world_size + len(own))
    everyone = {pair: found for of_rank in processes.gather(mine) for pair, found in of_rank.items()}
    ordered = [everyone[pair] for pair in sorted(everyone)]
    return Judged(np.array([scores for scores, _ in ordered]), np.array([tokens for _, tokens in ordered]))


def means(judged: Sequence[Judged]) -> list[float]:
    """Each head's mean score, of all responses."""
    means_H: list[float] = np.concatenate([each.scores for each in judged]).mean((0, 1)).tolist()
    return means_H


def report(judged: Judged) -> tuple[dict[str, float], dict[str, Any]]:
    """Figures, and the tables behind them: `calibration`, `by_length`.

    `accuracy` has a 95 % interval (Wilson 1927); a tie is half of a right one. `calibration_error` is the mean difference
    between how sure the model is and how often it is right, over ten bins by the pairs in each (Naeini et al. 2015).
    `length_bias`: how much more often than the people the model prefers the longer response, from -1 to 1.
    """
    margins_P = (judged.scores[:, 0] - judged.scores[:, 1]).mean(1)
    right_P = (np.sign(margins_P) + 1) / 2
    accuracy, pairs = float(right_P.mean()), len(right_P)
    low, high = wilson(accuracy, pairs)
    calibration = _calibration(margins_P)
    longer_P = judged.tokens[:, 0] - judged.tokens[:, 1]
    unequal = longer_P != 0
    by_people = longer_P[unequal] > 0
    by_model = np.where(by_people, right_P[unequal], 1 - right_P[unequal])
    figures = {
        "accuracy": accuracy,
        "accuracy_low": low,
        "accuracy_high": high,
        "pairs": float(pairs),
        "calibration_error": sum(abs(it["right"] - it["sure"]) * it["pairs"] for it in calibration) / pairs,
        "score_deviation": float(judged.scores.mean(2).std()),
    }
    if unequal.any():
        figures["length_bias"] = float(by_model.mean() - by_people.mean())
    if judged.scores.shape[2] > 1:
        figures["head_deviation"] = float((judged.scores[:, 0] - judged.scores[:, 1]).std(1).mean())
    return figures, {"calibration": calibration, "by_length": _by_length(longer_P, right_P)}


def _calibration(margins_P: NDArray[np.float64]) -> list[dict[str, float]]:
    """Pairs by how sure the model is of its choice, σ(|margin|) from 0.5 to 1: how sure in the mean, how often right."""
    sure_P = 1 / (1 + np.exp(-np.abs(margins_P)))
    bins_P = np.clip(np.digitize(sure_P, _BINS) - 1, 0, len(_BINS) - 2)
    right_P = (np.sign(margins_P) + 1) / 2
    return [
        {
            "from": round(float(_BINS[number]), 2),
            "to": round(float(_BINS[number + 1]), 2),
            "pairs": int(inside.sum()),
            "sure": float(sure_P[inside].mean()),
            "right": float(right_P[inside].mean()),
        }
        for number in range(len(_BINS) - 1)
        if (inside := bins_P == number).any()
    ]


def _by_length(longer_P: NDArray[np.int64], right_P: NDArray[np.float64]) -> list[dict[str, float]]:
    """Pairs in five equal parts by how many tokens more the chosen response has: how often the model is right there."""
    edges = np.unique(np.quantile(longer_P, np.linspace(0, 1, 6)))
    parts_P = np.clip(np.searchsorted(edges, longer_P, side="right") - 1, 0, max(0, len(edges) - 2))
    table = []
    for part in np.unique(parts_P):
        inside = parts_P == part
        share, pairs = float(right_P[inside].mean()), int(inside.sum())
        low, high = wilson(share, pairs)
        found = {
            "from": int(longer_P[inside].min()),
            "to": int(longer_P[inside].max()),
            "pairs": pairs,
            "accuracy": share,
        }
        table.append(found | {"low": low, "high": high})
    return table
