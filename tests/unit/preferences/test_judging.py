"""What is said of a reward model's scores, against figures worked out by hand."""

import numpy as np
import pytest
from trainyard_trainer.evaluation.intervals import wilson
from trainyard_trainer.preferences.judging import Judged, report


def judged(margins: list[float], longer: list[int]) -> Judged:
    """One head's."""
    scores = np.array([[[margin], [0.0]] for margin in margins])
    return Judged(scores, np.array([[50 + each, 50] for each in longer]))


def test_wilsons_interval() -> None:
    """Newcombe 1998, Statistics in Medicine 17, table I: 81 of 263, 15 of 148, 0 of 20."""
    assert wilson(81 / 263, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)
    assert wilson(15 / 148, 148) == pytest.approx((0.0624, 0.1605), abs=5e-5)
    assert wilson(0, 20) == pytest.approx((0, 0.1611), abs=5e-5)


def test_a_tie_is_half_of_a_right_one() -> None:
    figures, _ = report(judged([1, 2, -1, 0], [1, 1, 1, 1]))
    assert figures["accuracy"] == (1 + 1 + 0.5) / 4
    assert figures["pairs"] == 4


def test_who_is_as_sure_as_right_is_calibrated() -> None:
    three_to_one = float(np.log(3))
    figures, tables = report(judged([three_to_one] * 3 + [-three_to_one], [1, 2, 3, 4]))
    [one] = tables["calibration"]
    assert (one["from"], one["to"], one["pairs"]) == (0.75, 0.8, 4)
    assert (one["sure"], one["right"]) == pytest.approx((0.75, 0.75))
    assert figures["calibration_error"] == pytest.approx(0)


def test_who_is_too_sure_is_told_by_how_much() -> None:
    figures, _ = report(judged([50, -50], [1, 2]))
    assert figures["calibration_error"] == pytest.approx(0.5)


LENGTHS = {
    "people want the longer one half of the time, the model always": ([1, 1, -1, -1], [5, 5, -5, -5], 0.5),
    "both want the longer one": ([1, 1, 1, 1], [5, 5, 5, 5], 0),
    "people want the longer one, the model the shorter": ([-1, -1, -1, -1], [5, 5, 5, 5], -1),
    "equal lengths tell nothing": ([1, 1, -1, 1], [5, -5, 0, 0], 0),
}


@pytest.mark.parametrize(("margins", "longer", "bias"), LENGTHS.values(), ids=LENGTHS.keys())
def test_length_bias(margins: list[float], longer: list[int], bias: float) -> None:
    assert report(judged(margins, longer))[0]["length_bias"] == bias


def test_accuracy_by_length_is_of_equal_parts() -> None:
    _, tables = report(judged([1.0] * 50 + [-1.0] * 50, list(range(-50, 50))))
    parts = tables["by_length"]
    assert [each["pairs"] for each in parts] == [20] * 5
    assert [each["accuracy"] for each in parts] == [1, 1, 0.5, 0, 0]
    assert (parts[0]["from"], parts[-1]["to"]) == (-50, 49)
    assert all(each["low"] <= each["accuracy"] <= each["high"] for each in parts)


def test_pairs_of_one_length_are_one_part() -> None:
    figures, tables = report(judged([1, -1], [0, 0]))
    assert [each["pairs"] for each in tables["by_length"]] == [2]
    assert "length_bias" not in figures


def test_heads_that_disagree_are_told() -> None:
    both = Judged(np.array([[[3.0, 1.0], [0.0, 0.0]]]), np.array([[9, 8]]))
    assert report(both)[0]["head_deviation"] == 1
