"""Bradley–Terry with ties: closed forms, recovery of what was simulated, and what intervals are for."""

import math

import numpy as np
import pytest
from trainyard_trainer.collecting.scores import Game, fit, scores


def test_two_models_have_a_closed_form() -> None:
    counts = np.zeros((2, 2, 3))
    counts[0, 1] = [60, 20, 30]
    theta, nu = fit(counts, prior_deviation=math.inf)
    assert theta[0] - theta[1] == pytest.approx(math.log(60 / 20))
    assert nu == pytest.approx(30 / math.sqrt(60 * 20))


def test_what_was_simulated_is_found_again() -> None:
    """Three models, θ = 0.8, 0, -0.8 and ν = 0.5, 20,000 judgements of each two."""
    theta, nu, draw = np.array([0.8, 0.0, -0.8]), 0.5, np.random.default_rng(0)
    counts = np.zeros((3, 3, 3))
    for i, j in ((0, 1), (0, 2), (1, 2)):
        weights = np.array([math.exp(theta[i]), math.exp(theta[j]), nu * math.exp((theta[i] + theta[j]) / 2)])
        counts[i, j] = draw.multinomial(20_000, weights / weights.sum())
    found, found_nu = fit(counts)
    assert found == pytest.approx(theta, abs=0.03)
    assert found_nu == pytest.approx(nu, abs=0.02)


def test_the_better_model_is_first_and_its_interval_clear_of_the_other() -> None:
    games = [Game(f"i{n}", "a", "b", 0 if n % 5 else 1) for n in range(200)]
    told = scores(games)["models"]
    assert list(told) == ["a", "b"]
    assert told["a"]["low"] > told["b"]["high"]
    assert (told["a"]["wins"], told["a"]["losses"], told["a"]["ties"]) == (160, 40, 0)
    assert told["a"]["score"] + told["b"]["score"] == pytest.approx(2000, abs=0.2)


def test_equal_models_have_intervals_that_overlap() -> None:
    told = scores([Game(f"i{n}", "a", "b", n % 2) for n in range(60)])["models"]
    assert told["a"]["low"] < 1000 < told["a"]["high"]


def test_who_wins_always_stays_finite() -> None:
    told = scores([Game(f"i{n}", "b", "a", 1) for n in range(30)])["models"]
    assert 1000 < told["a"]["score"] < 3000


def test_a_model_against_itself_says_nothing() -> None:
    assert scores([Game("i", "a", "a", 0)]) == {}
