"""The cost of going away follows how far the policy is from where it is wanted."""

import pytest
from trainyard_api.reward_settings import CriticPolicySettings
from trainyard_trainer.reinforcement.kl_control import KlControl


def control(**settings: float) -> KlControl:
    return KlControl(CriticPolicySettings(**settings))  # type: ignore[arg-type]


@pytest.mark.parametrize(("kl", "cost"), [(0.2, 0.1), (0.22, 0.101), (9.0, 0.102), (0.18, 0.099), (0.0, 0.098)])
def test_a_batch_moves_it_by_a_bounded_share(kl: float, cost: float) -> None:
    it = control(kl=0.1, kl_target=0.2, kl_horizon=1000)
    it.observe(kl, 100)
    assert it.cost == pytest.approx(cost)


def test_without_a_target_it_stays() -> None:
    it = control(kl=0.1)
    it.observe(9.0, 100)
    assert it.cost == 0.1


def test_it_holds_what_pays_for_its_cost_near_the_target() -> None:
    it, kl = control(kl=0.01, kl_target=0.1, kl_horizon=1000), 0.0
    for _ in range(200):
        kl = 0.02 / it.cost  # the dearer, the nearer
        it.observe(kl, 200)
    assert kl == pytest.approx(0.1, rel=0.05)


def test_it_goes_on_as_it_was_saved() -> None:
    it, other = control(kl=0.1, kl_target=0.2), control(kl=0.5, kl_target=0.2)
    it.observe(0.7, 300)
    other.restore(it.tensors())
    assert other.cost == it.cost
    other.restore({})
    assert other.cost == it.cost
