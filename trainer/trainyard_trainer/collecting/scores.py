"""Scores of models from comparisons: Bradley–Terry with ties as Davidson (1970) has them, and bootstrap intervals.

    P(i beats j) = p_i / (p_i + p_j + ν √(p_i p_j)),   P(tie) = ν √(p_i p_j) / (the same)

With θ = ln p and η = ln ν that is a multinomial logit, whose likelihood is concave: Newton's method finds the one maximum
in a handful of steps. A normal prior with deviation 3 on θ and η keeps a model that has won every time finite. Without it, of
two models, θ_1 - θ_2 = ln(wins / losses) and ν = ties / √(wins losses).
Shown as Elo does: 1000 + 400 θ / ln 10, the mean of all models 1000. "Both bad" counts as a tie.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .coefficients import draws

_PRIOR_DEVIATION = 3.0
_STEPS = 50
_RESAMPLES = 300


@dataclass(frozen=True)
class Game:
    """One judgement of two models on one item: 0 the first won, 1 the second, 2 a tie."""

    item: str
    first: str
    second: str
    outcome: int


def fit(
    counts_MM3: NDArray[np.float64], prior_deviation: float = _PRIOR_DEVIATION
) -> tuple[NDArray[np.float64], float]:
    """θ (mean 0) and ν of counts[i, j, outcome] with i < j."""
    models = len(counts_MM3)
    i, j = np.triu_indices(models, 1)
    counts_P3 = counts_MM3[i, j]
    # Each outcome's logit is linear in (θ, η): θ_i, θ_j, (θ_i + θ_j) / 2 + η.
    features_P3D = np.zeros((len(i), 3, models + 1))
    rows = np.arange(len(i))
    features_P3D[rows, 0, i] = features_P3D[rows, 1, j] = 1
    features_P3D[rows, 2, i] = features_P3D[rows, 2, j] = 0.5
    features_P3D[rows, 2, models] = 1
    total_P = counts_P3.sum(1)
    precision = np.eye(models + 1) * (1 / prior_deviation**2 if prior_deviation < np.inf else 1e-12)
    parameters_D = np.zeros(models + 1)
    for _ in range(_STEPS):
        logits_P3 = features_P3D @ parameters_D
        shares_P3 = np.exp(logits_P3 - logits_P3.max(1, keepdims=True))
        shares_P3 /= shares_P3.sum(1, keepdims=True)
        gradient_D = np.einsum("pk,pkd->d", counts_P3 - total_P[:, None] * shares_P3, features_P3D)
        gradient_D -= precision @ parameters_D
        mean_PD = np.einsum("pk,pkd->pd", shares_P3, features_P3D)
        hessian_DD = np.einsum("p,pk,pkd,pke->de", total_P, shares_P3, features_P3D, features_P3D)
        hessian_DD += precision - np.einsum("p,pd,pe->de", total_P, mean_PD, mean_PD)
        step_D = np.linalg.solve(hessian_DD, gradient_D)
        parameters_D += step_D * min(1.0, 2.0 / max(1e-12, float(np.abs(step_D).max())))
        if np.abs(step_D).max() < 1e-9:
            break
    theta_M = parameters_D[:models] - parameters_D[:models].mean()
    return theta_M, float(np.exp(parameters_D[models]))


def scores(games: Sequence[Game], seed: int = 0) -> dict[str, object]:
    """Each model's score with its interval, wins, losses and ties, best first; items are resampled, with all their votes."""
    names = sorted({name for game in games for name in (game.first, game.second) if game.first != game.second})
    games = [game for game in games if game.first != game.second]
    if len(names) < 2:
        return {}
    place = {name: number for number, name in enumerate(names)}
    units = {item: number for number, item in enumerate(dict.fromkeys(game.item for game in games))}
    counts_UMM3 = np.zeros((len(units), len(names), len(names), 3))
    for game in games:
        a, b = place[game.first], place[game.second]
        outcome = game.outcome
        if a > b:
            a, b, outcome = b, a, (1, 0, 2)[outcome]
        counts_UMM3[units[game.item], a, b, outcome] += 1
    theta_M, nu = fit(counts_UMM3.sum(0))
    resampled_RM = np.array(
        [fit(np.tensordot(weights_U, counts_UMM3, 1))[0] for weights_U in draws(len(units), _RESAMPLES, seed)]
    )
    low_M, high_M = np.percentile(resampled_RM, [2.5, 97.5], axis=0)
    total_MM3 = counts_UMM3.sum(0)
    table = {}
    for model in np.argsort(-theta_M):
        of_first, of_second = total_MM3[model].sum(0), total_MM3[:, model].sum(0)
        table[names[model]] = {
            "score": _elo(theta_M[model]),
            "low": _elo(low_M[model]),
            "high": _elo(high_M[model]),
            "wins": int(of_first[0] + of_second[1]),
            "losses": int(of_first[1] + of_second[0]),
            "ties": int(of_first[2] + of_second[2]),
        }
    return {"models": table, "tie_parameter": round(nu, 4), "judgements": len(games), "items": len(units)}


def _elo(theta: float) -> float:
    return round(1000 + 400 * float(theta) / float(np.log(10)), 1)
