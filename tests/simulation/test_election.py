"""Two replicas of the operator, and what takes the leader away, in virtual time: the other acts within what is promised,
nobody writes without the Lease (`simulation/leaders.py` looks at every request that is sent), and runs come right.
"""

from dataclasses import replace

import pytest
from trainyard_operator.simulation.faults import Fault, Kind, NetworkFaults, RunPlan, draw_plan
from trainyard_operator.simulation.leaders import RELEASE_SECONDS, SUCCESSION_SECONDS
from trainyard_operator.simulation.world import Outcome, live_through

PROMISED: dict[Kind, float] = {
    "operator dies": SUCCESSION_SECONDS,
    "operator dies at its next write": SUCCESSION_SECONDS,
    "operator is paused": SUCCESSION_SECONDS,
    "operator is paused at its next write": SUCCESSION_SECONDS,
    "operator is cut off": SUCCESSION_SECONDS,
    "operator is stopped": RELEASE_SECONDS,
}


def disturbed(kind: Kind, seed: int) -> Outcome:
    """Two runs that train, on a network that is sound, while this happens to a replica every 40 s."""
    plan = replace(
        draw_plan(seed),
        runs=(RunPlan("small", 2, 40, 3, 0, None), RunPlan("large", 4, 40, 3, 5, None)),
        nodes=3,
        pods_per_node=8,
        network=NetworkFaults(seconds=0.02),
        faults=tuple(Fault(at, kind) for at in (30, 70, 110)),
        slow_pods=0,
        lost_events=0,
        repeated_events=0,
        replicas=2,
        elected=True,
        fault_seconds=150,
    )
    return live_through(plan, traced=False)


@pytest.mark.parametrize("kind", PROMISED)
def test_a_leader_that_is_gone_is_succeeded_within_what_is_promised(kind: Kind) -> None:
    outcome = disturbed(kind, 1)
    assert outcome.broken == []
    assert outcome.phases == {"Succeeded": 2}
    seconds = [seconds for how, seconds in outcome.successions if how == kind]
    assert seconds
    assert max(seconds) <= PROMISED[kind]
