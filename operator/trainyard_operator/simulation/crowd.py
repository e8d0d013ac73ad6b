"""Many runs at once, and how fast the operator is then: from what it sees of a failure to its asking for what replaces it.

The clock of this world goes on while the operator works, so the seconds are those of the processor in the real reconcile code,
plus the virtual ones of the network and of every wait, the client's own pace included. What API server, kubelets and agents
take does not count: they are other machines.
"""

import asyncio
import gc
import random
from dataclasses import dataclass, field
from typing import Any

from trainyard_api.names import LABEL_RUN, PLURAL
from trainyard_api.status import Phase

from ..cluster.protocol import Manifest
from .faults import NetworkFaults, Plan, RunPlan
from .operators import SERVER
from .virtual_time import VirtualTimeLoop, WorkingTimeLoop
from .world import World

WORKERS = 2
CREATED_SECONDS = 120.0
"""All runs are made within so long."""
KILLED_SECONDS = 60.0
"""All agents that are killed are killed within so long."""
PATIENCE_SECONDS = 600.0


@dataclass
class Crowd:
    """What was measured."""

    runs: int
    seconds: list[float] = field(default_factory=list)
    """For each failure, from the watch's telling of the dead pod to the request for the pod that replaces it."""
    requests: int = 0


def measure(runs: int, failures: int) -> Crowd:
    """Kill one agent in each of so many runs while all of them train."""
    loop = WorkingTimeLoop()
    try:
        asyncio.set_event_loop(loop)
        return loop.run_until_complete(_live(loop, runs, failures))
    finally:
        gc.unfreeze()
        asyncio.set_event_loop(None)
        loop.close()


async def _live(loop: VirtualTimeLoop, runs: int, failures: int) -> Crowd:
    draw = random.Random(runs)
    plan = Plan(
        seed=runs,
        runs=tuple(
            RunPlan(f"run-{number}", WORKERS, 10**6, 10, CREATED_SECONDS * number / runs, None)
            for number in range(runs)
        ),
        nodes=max(2, runs // 10),
        pods_per_node=40,
        network=NetworkFaults(seconds=0.005),
        faults=(),
        restarts_in_place=False,  # what is measured is how soon pods are replaced
        slow_pods=0,
        lost_events=0,
        repeated_events=0,
        replicas=1,
        elected=False,
        fault_seconds=10**9,
    )
    world = World(plan, loop, traced=False)
    crowd, seen = Crowd(runs), {}

    def pod_changed(event: str, pod: Manifest) -> None:
        run, dead = pod["metadata"]["labels"][LABEL_RUN], pod["status"]["phase"] == "Failed"
        if dead and event == "MODIFIED":
            seen[run] = loop.time()

    async def serve(method: str, path: str, query: Any, body: Any) -> Any:
        crowd.requests += 1
        if (
            method == "POST"
            and path.endswith("/pods")
            and (since := seen.pop(body["metadata"]["labels"][LABEL_RUN], None))
        ):
            crowd.seconds.append(loop.time() - since)
        return await world.serve(method, path, query, body)

    world.network.hosts[SERVER] = serve
    world.server.watch("pods", pod_changed)
    world.schedule()
    await _until(lambda: _training(world) == runs, loop)
    gc.collect()
    gc.freeze()  # a full collection takes 0.1 s of what an operator knows of 1,000 runs, and 1.3 s of the world around it
    for run in draw.sample([run.name for run in plan.runs], failures):
        loop.call_later(draw.uniform(0, KILLED_SECONDS), _kill, world, run)
    await asyncio.sleep(KILLED_SECONDS)
    await _until(lambda: len(crowd.seconds) >= failures, loop)
    await world.close()
    return crowd


async def _until(holds: Any, loop: VirtualTimeLoop) -> None:
    deadline = loop.time() + PATIENCE_SECONDS
    while not holds():
        if loop.time() > deadline:
            raise TimeoutError("the crowd does not get there")
        await asyncio.sleep(1)


def _training(world: World) -> int:
    statuses = [run.get("status", {}) for run in world.server.all(PLURAL)]
    return sum((status.get("phase"), status.get("stage")) == (Phase.RUNNING, "base") for status in statuses)


def _kill(world: World, run: str) -> None:
    mine = [each for each in world.nodes.running() if each.name[1].startswith(f"{run}-base-")]
    mine[0].agent.kill()
