"""Which batches may change the weights: by their loss, their gradient norm, and what came before."""

import math

import pytest
from trainyard_api.checkpoint import RolledBack
from trainyard_api.numerics import NumericsSettings, SpikeSettings
from trainyard_trainer.engine.numerics import Fault, Numerics

SPIKES = SpikeSettings(action="Skip", deviations=4, window=8)
SETTINGS = NumericsSettings(spike=SPIKES, max_faults=2, within_steps=50)
STEADY = [3.0, 3.2] * 4
"""Mean 3.1, standard deviation 0.1."""


def trained(losses: list[float], settings: NumericsSettings = SETTINGS) -> Numerics:
    numerics = Numerics(settings)
    for loss in losses:
        numerics.trained(loss)
    return numerics


def leave_out(numerics: Numerics, step: int) -> Fault:
    """A batch for this step has no number for a loss."""
    fault = numerics.judge_loss(step, math.nan)
    assert fault
    numerics.leave_out(fault)
    return fault


LOSSES = {
    "a loss like those before it": (STEADY, 3.2, None),
    "a loss four deviations above them": (STEADY, 3.49, None),
    "a loss that is further above": (STEADY, 3.51, "Spike"),
    "a loss far below": (STEADY, 0.1, None),
    "a high loss among few": (STEADY[:7], 30.0, None),
    "a high loss after losses all alike": ([3.0] * 8, 3.01, "Spike"),
    "NaN": (STEADY, math.nan, "NonFinite"),
    "infinity, as the first of all": ([], math.inf, "NonFinite"),
}


@pytest.mark.parametrize(("before", "loss", "kind"), LOSSES.values(), ids=LOSSES.keys())
def test_a_loss_is_judged_by_those_before(before: list[float], loss: float, kind: str | None) -> None:
    fault = trained(before).judge_loss(9, loss)
    assert (fault and fault.kind) == kind


def test_only_the_last_losses_count() -> None:
    assert trained([9.0] * 20 + STEADY).judge_loss(29, 8.0)


def test_a_spike_is_nothing_where_it_is_ignored() -> None:
    settings = NumericsSettings(spike=SpikeSettings(window=8))
    assert trained(STEADY, settings).judge_loss(9, 1e9) is None


@pytest.mark.parametrize("norm", [math.nan, math.inf])
def test_gradients_must_be_numbers(norm: float) -> None:
    fault = Numerics(SETTINGS).judge_gradients(9, 3.1, norm)
    assert fault
    assert fault.what == f"gradient norm {norm}, loss 3.1"
    assert Numerics(SETTINGS).judge_gradients(9, 3.1, 1e30) is None


def test_what_is_done_is_what_the_settings_say() -> None:
    numerics = trained(STEADY, NumericsSettings(non_finite="Stop", spike=SPIKES))
    assert [each.action for loss in (math.nan, 99.0) if (each := numerics.judge_loss(9, loss))] == ["Stop", "Skip"]


def test_each_batch_left_out_puts_off_all_that_come_after() -> None:
    numerics = Numerics(SETTINGS)
    assert numerics.batch(5) == 5
    leave_out(numerics, 5)
    assert (numerics.batch(5), numerics.batch(6), numerics.skipped) == (6, 7, 1)


@pytest.mark.parametrize(
    ("step", "action"),
    [(5, "Stop"), (54, "Stop"), (55, "Skip"), (500, "Skip")],
    ids=["one too many", "still one too many", "one of them is long ago", "both are"],
)
def test_too_many_in_few_steps_stop_the_run(step: int, action: str) -> None:
    numerics = Numerics(SETTINGS)
    for earlier in (5, 5):
        assert leave_out(numerics, earlier).action == "Skip"
    last = numerics.judge_loss(step, math.nan)
    assert last
    assert last.action == action
    assert ("maxFaults = 2 within 50 steps are used up" in last.what) == (action == "Stop")


def test_a_history_that_was_saved_goes_on() -> None:
    first = trained([*STEADY, 3.3])
    leave_out(first, 10)
    second = Numerics(SETTINGS)
    second.restore(first.tensors())
    assert {name: each.tolist() for name, each in second.tensors().items()} == {
        name: each.tolist() for name, each in first.tensors().items()
    }
    shapes = [{name: each.shape for name, each in of.tensors().items()} for of in (first, Numerics(SETTINGS))]
    assert shapes[0] == shapes[1]
    wider = Numerics(NumericsSettings(spike=SpikeSettings(window=20)))
    wider.restore(first.tensors())
    assert (wider.passed, wider.skipped) == (1, 1)


@pytest.mark.parametrize(
    ("step", "passed"),
    [(20, 21), (0, 41), (45, 3)],
    ids=["saved before the roll-back", "nothing was saved", "saved after it"],
)
def test_after_a_roll_back_no_state_sees_a_batch_from_before(step: int, passed: int) -> None:
    numerics = Numerics(SETTINGS)
    for _ in range(3 if step == 45 else 1):
        leave_out(numerics, 1)
    numerics.overrule(RolledBack(attempt=1, to_step=20, batch=41, skipped=2, faults=[12, 40]), step)
    assert numerics.passed == passed
    assert numerics.batch(step + 1) > 41
