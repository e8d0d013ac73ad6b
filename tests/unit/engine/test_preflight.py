"""Who of a group is suspect, from what all of it has found."""

from dataclasses import replace

import pytest
from trainyard_trainer.engine.preflight import Finding, find_suspects

FINE = Finding(arithmetic="", sums="", storage="", time=1_000.0)
NOT_ASKED = replace(FINE, storage=None)
NO_STORAGE = replace(FINE, storage="storage: gone")
WRONG = replace(FINE, sums="3 sums are wrong")
AHEAD, A_LITTLE_AHEAD = replace(FINE, time=1_400.0), replace(FINE, time=1_250.0)

CASES = {
    "a group in which all is well has no suspect": ([FINE, FINE], {}),
    "whoever alone has no storage is suspect": ([FINE, NO_STORAGE, FINE], {1: "storage: gone"}),
    "storage that no worker has is nobody's fault": ([NO_STORAGE, NOT_ASKED, NO_STORAGE, NOT_ASKED], {}),
    "who alone gets wrong sums is suspect": ([WRONG, FINE], {0: "3 sums are wrong"}),
    "sums that are wrong for all tell nothing of who it is": ([WRONG, WRONG], {}),
    "a clock that is far from the others' is suspect": (
        [FINE, FINE, AHEAD],
        {2: "its clock is +400 s off the group's"},
    ),
    "of two clocks nobody knows which one is wrong": ([FINE, A_LITTLE_AHEAD], {}),
    "of two clocks that are far apart neither": ([FINE, replace(FINE, time=9_000.0)], {}),
    "a clock that is a little off is none": ([FINE, FINE, A_LITTLE_AHEAD], {}),
    "each of several suspects is named with what is wrong first": (
        [NO_STORAGE, FINE, replace(WRONG, arithmetic="a product is wrong"), FINE],
        {0: "storage: gone", 2: "a product is wrong"},
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_suspects(name: str) -> None:
    findings, suspects = CASES[name]
    assert find_suspects(findings) == suspects
