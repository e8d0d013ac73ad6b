"""What was drawn by something else than what trains is not learned from."""

import pytest
from trainyard_trainer.errors import RetryableError
from trainyard_trainer.reinforcement.gate import Gate


def test_a_batch_is_drawn_anew_once_and_each_batch_has_its_own_try(capsys: pytest.CaptureFixture[str]) -> None:
    anew: list[int] = []
    gate = Gate(0.5, lambda: anew.append(1))
    assert [gate.refuses(mismatch) for mismatch in (0.5, 0.6, 0.1, 0.7, 0.2)] == [False, True, False, True, False]
    assert len(anew) == 2
    assert "maxMismatch: log-probabilities in training are 0.6 nats from those" in capsys.readouterr().err


@pytest.mark.parametrize("others_draw", [True, False])
def test_if_that_is_of_no_use_the_attempt_ends(others_draw: bool) -> None:
    gate = Gate(0.5, (lambda: None) if others_draw else None)
    if others_draw:
        assert gate.refuses(2.0)
    with pytest.raises(RetryableError, match=r"2 nats .* and 0.5 is allowed; .*or raise it"):
        gate.refuses(2.0)


def test_what_is_no_number_is_left_to_who_judges_numbers() -> None:
    assert not Gate(0.5, None).refuses(float("nan"))
