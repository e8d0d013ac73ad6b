"""Twenty random processes are killed at random moments, agents, ranks, writers and warm ones, and nothing is lost: the same
bits at the end, the same losses on the way, and each position of the data trained on exactly once.

The seed is printed; TRAINYARD_SEED replays it.
"""

import os
import random
from pathlib import Path

import pytest
from random_kills import random_kills

KILLS = 20


@pytest.mark.timeout(900)  # four times what it takes on two cores that have three other tests to run
def test_random_kills_lose_nothing(tmp_path: Path) -> None:
    seed = int(os.environ.get("TRAINYARD_SEED", random.randrange(1_000_000)))
    print(f"TRAINYARD_SEED={seed}")
    outcome = random_kills(tmp_path, KILLS, seed)
    print(outcome)
    assert sum(outcome.killed.values()) == KILLS
    assert (outcome.lost, outcome.duplicated) == (0, 0)
    assert outcome.same_losses
    assert outcome.same_bits
    assert outcome.nothing_lives
