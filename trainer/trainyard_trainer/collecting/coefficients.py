"""Agreement beyond chance, with intervals: Cohen's κ (1960) of two people, Krippendorff's α (2011) of any number, with gaps.

Both are ratios of sums over units, so a bootstrap of units needs no data again: each resample is a vector of how often each
unit was drawn, and all of them together are one matrix product. Labels are nominal: -1 where somebody gave none.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..evaluation.intervals import wilson

RESAMPLES = 1000
Labels = NDArray[np.int64]


@dataclass(frozen=True)
class Estimate:
    """A figure, and the 2.5th and 97.5th percentile of its bootstrap; NaN where the data say nothing."""

    value: float
    low: float
    high: float
    units: int

    def told(self) -> dict[str, float | int | None]:
        """For JSON, which has no NaN."""
        figures = {"value": self.value, "low": self.low, "high": self.high}
        return {name: None if np.isnan(it) else round(it, 4) for name, it in figures.items()} | {"units": self.units}


def kappa(first_U: Labels, second_U: Labels, seed: int = 0) -> Estimate:
    """κ = (p_o - p_e) / (1 - p_e) over the units that both labelled; p_e from each one's own shares of the labels."""
    both = (first_U >= 0) & (second_U >= 0)
    first_U, second_U = first_U[both], second_U[both]
    count = int(max(first_U.max(initial=0), second_U.max(initial=0))) + 1
    first_UC, second_UC = np.eye(count)[first_U], np.eye(count)[second_U]
    agreed_U = (first_U == second_U).astype(float)

    def value(weights_RU: NDArray[np.float64]) -> NDArray[np.float64]:
        total_R = weights_RU.sum(1)
        observed_R = weights_RU @ agreed_U / total_R
        expected_R = ((weights_RU @ first_UC) * (weights_RU @ second_UC)).sum(1) / total_R**2
        return (observed_R - expected_R) / (1 - expected_R)

    return _estimate(value, len(first_U), seed)


def alpha(labels_AU: Labels, seed: int = 0) -> Estimate:
    """α = 1 - D_o / D_e over the units that two or more of the A annotators labelled."""
    count = int(labels_AU.max(initial=0)) + 1
    counts_UC = np.stack([(labels_AU == label).sum(0) for label in range(count)], axis=1).astype(float)
    counts_UC = counts_UC[counts_UC.sum(1) >= 2]
    pairable_U = counts_UC.sum(1)
    disagreed_U = (pairable_U**2 - (counts_UC**2).sum(1)) / (pairable_U - 1)

    def value(weights_RU: NDArray[np.float64]) -> NDArray[np.float64]:
        counts_RC = weights_RU @ counts_UC
        total_R = counts_RC.sum(1)
        expected_R = (total_R**2 - (counts_RC**2).sum(1)) / (total_R - 1)
        return 1 - weights_RU @ disagreed_U / expected_R

    return _estimate(value, len(counts_UC), seed)


def share(successes: int, total: int) -> Estimate:
    """A share with Wilson's interval (1927) at 95 %."""
    if not total:
        return Estimate(np.nan, np.nan, np.nan, 0)
    return Estimate(successes / total, *wilson(successes / total, total), total)


def draws(units: int, resamples: int, seed: int) -> NDArray[np.float64]:
    """How often each unit is drawn in each resample with replacement, shape (resamples, units)."""
    return np.random.default_rng(seed).multinomial(units, np.full(units, 1 / units), resamples).astype(float)


def _estimate(value, units: int, seed: int) -> Estimate:  # type: ignore[no-untyped-def]
    if not units:
        return Estimate(np.nan, np.nan, np.nan, 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        found = float(value(np.ones((1, units)))[0])
        resampled_R = value(draws(units, RESAMPLES, seed))
    resampled_R = resampled_R[np.isfinite(resampled_R)]  # some have one label alone, of which nothing follows
    if not np.isfinite(found) or not len(resampled_R):
        return Estimate(np.nan, np.nan, np.nan, units)
    low, high = np.percentile(resampled_R, [2.5, 97.5])
    return Estimate(found, float(low), float(high), units)
