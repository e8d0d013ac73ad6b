"""Worlds from seeds, in virtual time, under the real operator: whatever goes wrong, the invariants hold.

`python -m benchmarks.simulate --seed N --trace` replays one, and `--seeds 10000` looks at more.
"""

import pytest
from trainyard_operator.simulation.world import simulate

SEEDS = 300
AT_ONCE = 25


@pytest.mark.parametrize("first", range(0, SEEDS, AT_ONCE))
def test_every_world_comes_right(first: int) -> None:
    outcomes = [simulate(seed) for seed in range(first, first + AT_ONCE)]
    broken = [f"seed {outcome.seed}: {what}" for outcome in outcomes for what in outcome.broken]
    assert not broken, "\n".join([*broken, "replay with: python -m benchmarks.simulate --seed N --trace"])


def test_a_seed_is_the_same_world_every_time() -> None:
    assert simulate(7).trace == simulate(7).trace
