"""κ and α against published examples, and their intervals."""

import numpy as np
import pytest
from trainyard_trainer.collecting.coefficients import Labels, alpha, kappa, share


def two_by_two(both_yes: int, yes_no: int, no_yes: int, both_no: int) -> tuple[Labels, Labels]:
    """Labels of two people, of a table of how often they said what."""
    pairs = [(1, 1)] * both_yes + [(1, 0)] * yes_no + [(0, 1)] * no_yes + [(0, 0)] * both_no
    return np.array([a for a, _ in pairs]), np.array([b for _, b in pairs])


def labels(*rows: str) -> Labels:
    """A character a unit, a dot where nobody said anything."""
    return np.array([[-1 if it == "." else "0123456789abcdef".index(it) for it in row] for row in rows])


KAPPAS = {
    "50 proposals, 35 of them alike (Wikipedia, Cohen's kappa)": (two_by_two(20, 5, 10, 15), 0.4),
    "60 of 100 alike, similar shares (Wikipedia)": (two_by_two(45, 15, 25, 15), 0.1304),
    "60 of 100 alike, opposite shares (Wikipedia)": (two_by_two(25, 35, 5, 35), 0.2593),
    "always alike": (two_by_two(10, 0, 0, 10), 1.0),
    "never alike": (two_by_two(0, 10, 10, 0), -1.0),
}
ALPHAS = {
    "two people, ten units, two labels (Krippendorff 2011, A)": (labels("0100000010", "1110010000"), 0.095),
    "two people, twelve units, five labels (B)": (labels("aabbdcccedda", "babbbccceddd"), 0.692),
    "four people with gaps, twelve units, five labels (C)": (
        labels("123321412...", "1233224125.3", ".3332342251.", "12332441251."),
        0.743,
    ),
    "always alike": (labels("0101", "0101"), 1.0),
}


@pytest.mark.parametrize("name", KAPPAS)
def test_kappa(name: str) -> None:
    (first, second), expected = KAPPAS[name]
    found = kappa(first, second)
    assert found.value == pytest.approx(expected, abs=5e-4)
    assert found.low <= found.value <= found.high


@pytest.mark.parametrize("name", ALPHAS)
def test_alpha(name: str) -> None:
    given, expected = ALPHAS[name]
    found = alpha(given)
    assert found.value == pytest.approx(expected, abs=5e-4)
    assert found.low <= found.value <= found.high


def test_units_that_one_person_labelled_say_nothing() -> None:
    with_one, without = labels("0100.", "01101"), labels("0100", "0110")
    assert alpha(with_one).value == alpha(without).value


def test_one_label_alone_has_no_figure() -> None:
    assert np.isnan(kappa(*two_by_two(5, 0, 0, 0)).value)
    assert alpha(labels("00", "00")).told() == {"value": None, "low": None, "high": None, "units": 2}
    assert alpha(labels("..")).told()["units"] == 0


def test_the_interval_holds_the_truth_about_as_often_as_it_says() -> None:
    """Two people who say the same in 80 %, else toss a coin: κ is 0.8. At least 50 of 60 intervals hold it."""
    hits = 0
    for seed in range(60):
        draw = np.random.default_rng(seed)
        first, same = draw.integers(0, 2, 200), draw.random(200) < 0.8
        found = kappa(first, np.where(same, first, draw.integers(0, 2, 200)), seed)
        hits += found.low <= 0.8 <= found.high
    assert hits >= 50


def test_wilson_interval() -> None:
    """Of 10 trials with 8 successes: 0.4902 to 0.9433 (Wilson 1927, as R's prop.test without correction gives it)."""
    found = share(8, 10)
    assert (found.low, found.high) == pytest.approx((0.4902, 0.9433), abs=1e-4)
    assert np.isnan(share(0, 0).value)
