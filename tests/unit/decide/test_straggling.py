"""Ranks that hold others up, as they go on record: what is seen, what must follow."""

from typing import Any

import pytest
from builders import a_run, pod
from expectations import Cases, becomes, check, says, tells
from trainyard_api.protocol import Straggler as Told
from trainyard_api.status import Phase, Reason

RUNNING = a_run().in_stage().with_pods(pod(0), pod(1, node="node-b"))
SLOW = Told(rank=1, seconds=0.2, usual_seconds=0.1)
ON_RECORD: dict[str, Any] = {"rank": 1, "pod": "tiny-base-1-2", "node": "node-b", "seconds": 0.2, "usualSeconds": 0.1}

CASES: Cases = {
    "a slow rank goes on record with its node, and is told": (
        RUNNING.training(stragglers=[SLOW]),
        (
            becomes(Phase.RUNNING, Reason.TRAINING),
            tells(
                "Straggler", "stage base: rank 1 (pod tiny-base-1-2, node node-b) takes 2.0 times as long as the others"
            ),
            lambda d, _: [each.wire() for each in d.status.stragglers] == [ON_RECORD],
        ),
    ),
    "one on record is not told again": (
        RUNNING.in_stage(stragglers=[ON_RECORD]).training(stragglers=[SLOW.model_copy(update={"seconds": 0.3})]),
        (
            becomes(Phase.RUNNING, Reason.TRAINING),
            says("rank 1 (pod tiny-base-1-2, node node-b) takes 2.0 times as long"),
            lambda d, _: not d.events,
        ),
    ),
    "one that is slow no more is off the record": (
        RUNNING.in_stage(stragglers=[ON_RECORD]).training(),
        (lambda d, _: (d.status.stragglers, d.events, d.status.message) == ((), (), ""),),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_straggling(name: str) -> None:
    check(*CASES[name])
