"""One seed's world, from its beginning to its end: runs are made, faults happen, and all must come right."""

import asyncio
import logging
import random
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from trainyard_api.names import API_VERSION, KIND, PLURAL
from trainyard_api.protocol import Assignment
from trainyard_api.status import FINISHED

from ..cluster.protocol import Manifest
from ..cluster.simulated import ApiServer
from ..runtime.listing import RELIST_SECONDS
from .agents import Agent
from .faults import Fault, Kind, Plan, RunPlan, draw_plan
from .gang import Gang, Pace
from .garbage import collect_garbage
from .invariants import Invariants
from .network import Content, Network, serving
from .nodes import Nodes, precise
from .operators import SERVER, Failures
from .replicas import Replicas
from .storage import Checkpoints
from .virtual_time import VirtualTimeLoop

NAMESPACE = "team"
HORIZON_SECONDS = 4 * 3600
"""Long after all faults: by then every run has ended, for the longest wait that a policy makes is minutes."""
CALM_SECONDS = 700
"""After the end and a re-list, with two more in it: nothing may be written then."""


@dataclass
class Outcome:
    """What became of a seed."""

    seed: int
    broken: list[str]
    trace: list[str]
    seconds: float
    """Of virtual time."""
    runs: int
    recoveries: int
    writes: int
    phases: dict[str, int]
    """How runs have ended."""
    faults: dict[str, int]
    """What the plan had, by kind."""
    replicas: int
    """Of the operator."""
    successions: list[tuple[Kind, float]]
    """What took leaders of the operator away, and after how many seconds another one acted."""


def simulate(seed: int, *, traced: bool = True) -> Outcome:
    """Live through a seed's world."""
    return live_through(draw_plan(seed), traced=traced)


def live_through(plan: Plan, *, traced: bool) -> Outcome:
    """Live through the world of a plan."""
    loop = VirtualTimeLoop()
    try:
        asyncio.set_event_loop(loop)
        return loop.run_until_complete(World(plan, loop, traced=traced).live())
    finally:
        asyncio.set_event_loop(None)
        loop.close()


class World:
    """Everything there is."""

    def __init__(self, plan: Plan, loop: VirtualTimeLoop, *, traced: bool) -> None:
        self.plan = plan
        self._traced = traced
        self.trace: list[str] = []
        self._loop = loop
        self._random = random.Random(f"{plan.seed} world")
        self.server = ApiServer(loop.now, (NAMESPACE,))
        self.network = Network(plan.network, random.Random(f"{plan.seed} network"), server=self.server)
        self._server_answers = serving(self.server)
        self.network.hosts[SERVER] = self.serve
        kinds = {fault.kind for fault in plan.faults}
        self.invariants = Invariants(
            self.server,
            loop.time,
            lambda node: self.nodes.was_lost(node),
            exact="clock jumps" not in kinds,
            told=not plan.lost_events and "watch drops" not in kinds,
        )
        self.nodes = Nodes(
            self.server,
            self.network,
            random.Random(f"{plan.seed} nodes"),
            self._gang_of,
            loop.now,
            plan.nodes,
            plan.pods_per_node,
            lambda pod: self._injure(pod, "node loses power"),
            plan.restarts_in_place,
            plan.slow_pods,
        )
        collect_garbage(self.server)
        self.replicas = Replicas(plan, loop, self.server, self.network, self._random, self.invariants.fail, self._note)
        self._quota_until = 0.0
        self._gangs: dict[tuple[str, str, int], Gang] = {}
        self._checkpoints: dict[tuple[str, str], Checkpoints] = defaultdict(
            lambda: Checkpoints(self.invariants.checkpoints_changed)
        )
        for plural in (PLURAL, "pods") if traced else ():
            self.server.watch(plural, self._trace_object)

    # ---- the course of things

    async def live(self) -> Outcome:
        """All of it."""
        hear = Failures(self.invariants.fail)
        logger = logging.getLogger("trainyard_operator")
        logger.addHandler(hear)
        level, propagate = logger.level, logger.propagate
        logger.setLevel(logging.ERROR)
        logger.propagate = False
        try:
            self.schedule()
            await self._until_all_have_ended()
            # The last events are posted after the last status, and a list repairs what a watch has missed.
            await asyncio.sleep(RELIST_SECONDS + 30)
            before = self.replicas.writes
            await asyncio.sleep(CALM_SECONDS)
            self.invariants.check_end(self.replicas.writes - before)
            await self.close()
        finally:
            logger.removeHandler(hear)
            logger.setLevel(level)
            logger.propagate = propagate
        records = self.invariants.records.values()
        phases: Counter[str] = Counter()
        for record in records:
            phases["Deleted" if record.deleted else str(record.status.phase)] += 1
        return Outcome(
            seed=self.plan.seed,
            broken=self.invariants.broken,
            trace=self.trace,
            seconds=self._loop.time(),
            runs=len(records),
            recoveries=sum(len(record.recoveries) for record in records),
            writes=self.replicas.writes,
            phases=phases,
            faults=Counter(fault.kind for fault in self.plan.faults),
            replicas=self.plan.replicas,
            successions=self.replicas.leaders.successions,
        )

    def schedule(self) -> None:
        """Have everything happen that the plan says."""
        at: Callable[..., object] = self._loop.call_at
        self.replicas.start()
        for run in self.plan.runs:
            at(run.created, self._create, run)
            if run.deleted:
                at(run.deleted, self._delete, run.name)
        for fault in self.plan.faults:
            at(fault.at, self._happen, fault)
        at(self.plan.fault_seconds, self._calm)

    def _calm(self) -> None:
        self._note("from now on all is calm")
        self.network.faults.calm = True
        self.replicas.calm()
        for node in self.nodes.nodes:
            self.nodes.bring_back(node)

    async def _until_all_have_ended(self) -> None:
        while self._loop.time() < HORIZON_SECONDS:
            await asyncio.sleep(10)
            records = self.invariants.records.values()
            ended = all(record.deleted or record.status.phase in FINISHED for record in records)
            if ended and len(records) == len(self.plan.runs) and self._loop.time() > self.plan.fault_seconds + 100:
                return

    async def close(self) -> None:
        """End all that goes on."""
        self.replicas.die()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    async def serve(self, method: str, path: str, query: Any, body: Any) -> Content:
        """What the API server answers."""
        if self._quota_until > self._loop.time() and method == "POST" and path.endswith("/pods"):
            return 403, {}, {"kind": "Status", "code": 403, "reason": "Forbidden", "message": "exceeded quota: team"}
        return await self._server_answers(method, path, query, body)

    # ---- runs

    def _create(self, run: RunPlan) -> None:
        stages = [
            {"name": "corpus", "prepare": {"sources": [{"builtin": "python-docs"}]}},
            {
                "name": "base",
                "pretrain": {"data": "corpus", "model": {"type": "llama"}, "steps": run.steps, "globalBatch": 16},
            },
            {"name": "out", "export": {"model": "base"}},
        ]
        recovery = {"maxFailures": run.max_failures, "hangSeconds": 200, "startSeconds": 600}
        spec = {"workers": {"count": run.workers}, "recovery": recovery, "stages": stages}
        metadata = {"name": run.name, "namespace": NAMESPACE}
        self.server.add(PLURAL, {"apiVersion": API_VERSION, "kind": KIND, "metadata": metadata, "spec": spec})

    def _delete(self, name: str) -> None:
        if self.server.get(PLURAL, (NAMESPACE, name)):
            self._note(f"{name} is deleted")
            self.server.remove(PLURAL, (NAMESPACE, name))

    def _gang_of(self, assignment: Assignment, agent: Agent) -> Gang:
        """The ranks of an attempt, which the first agent that has its place starts."""
        job = assignment.job
        self._note(
            f"{agent.address} is worker {assignment.worker} of {job.run} {job.stage}, attempt {assignment.attempt}"
        )
        self.invariants.assigned(assignment, agent.address)
        key = job.run_uid, job.stage, assignment.attempt
        if key not in self._gangs:
            checkpoints = self._checkpoints[key[:2]]
            draw = self._random
            pace = Pace(draw.uniform(1, 4), draw.uniform(1, 6), draw.uniform(0.2, 3))
            self._gangs[key] = Gang(assignment, checkpoints, pace, draw, lambda: precise(self._loop.now()))
        return self._gangs[key]

    # ---- faults

    def _happen(self, fault: Fault) -> None:
        draw = self._random
        self._note(f"fault: {fault.kind}")
        match fault.kind:
            case kind if kind.startswith("operator"):
                self.replicas.happen(kind)
            case "watch drops":
                for process in self.replicas.processes:
                    process.drop_watches()
            case "clock jumps":
                self.replicas.clock_offset += timedelta(seconds=draw.choice((-3600, -100, -5, 5, 100, 3600)))
            case "run is touched":
                for run in self.server.all(PLURAL):
                    name = run["metadata"]["namespace"], run["metadata"]["name"]
                    self.server.change(PLURAL, name, metadata={**run["metadata"], "annotations": {"at": str(fault.at)}})
            case "quota is used up":
                self._quota_until = self._loop.time() + draw.uniform(5, 100)
            case "node is cut off" | "node loses power":
                node = draw.choice(self.nodes.nodes)
                if node.connected:
                    for pod in [pod for pod in self.server.all("pods") if pod["spec"].get("nodeName") == node.name]:
                        self._injure(pod, fault.kind)
                    self.nodes.lose(node, power=fault.kind == "node loses power")
                    self._loop.call_later(draw.uniform(100, 300), self.nodes.bring_back, node)
            case _:
                self._hurt(fault)

    def _hurt(self, fault: Fault) -> None:
        """Do it to one of the pods that run."""
        running = self.nodes.running()
        if fault.kind in ("rank crashes", "rank is killed", "ranks hang"):
            running = [each for each in running if each.agent.gang and not each.agent.gang.halted]
        if not running:
            self._note("to nobody")
            return
        container = self._random.choice(running)
        agent, pod = container.agent, self.server.get("pods", container.name)
        assert pod
        self._note(f"to {container.name[1]}")
        if fault.kind in ("rank crashes", "rank is killed", "ranks hang"):
            assert agent.gang
            assert agent.assignment
            record = self.invariants.records[agent.assignment.job.run_uid]
            record.injuries[agent.assignment.attempt].append(fault.kind)
            record.failed.add(agent.assignment.attempt)
            if fault.kind == "ranks hang":
                agent.gang.halted = True
            else:
                code, cause = (1, "Crashed") if fault.kind == "rank crashes" else (137, "Killed")
                agent.gang.end(agent.assignment.worker, code, cause, "a fault of the plan")
            return
        self._injure(pod, fault.kind)
        match fault.kind:
            case "agent is killed":
                agent.kill()
            case "pod runs out of memory":
                self.nodes.end_out_of_memory(container)
            case "pod is deleted":
                self.server.delete("pods", container.name, self._random.choice((None, 0, 5)))
            case "pod is evicted":
                self.nodes.disrupt(container, "EvictionByEvictionAPI")
            case "pod is preempted":
                self.nodes.disrupt(container, "PreemptionByScheduler")

    def _injure(self, pod: Manifest, kind: Kind) -> None:
        """On record: to which attempt it was done; one that has ended may not be known to have, so the next as well."""
        uid = pod["metadata"]["ownerReferences"][0]["uid"]
        if record := self.invariants.records.get(uid):
            for attempt in (record.status.attempt, record.status.attempt + 1):
                self.invariants.injured(uid, attempt, kind)

    # ---- what happened, for people

    def _note(self, what: str) -> None:
        if self._traced:
            self.trace.append(f"{self._loop.time():10.3f}  {what}")

    def _trace_object(self, event: str, manifest: Any) -> None:
        metadata, status = manifest["metadata"], manifest.get("status", {})
        words = [metadata["name"], event, status.get("phase", "")]
        if manifest["kind"] == KIND:
            words += [status.get("reason", ""), f"attempt {status.get('attempt')}", status.get("stage") or ""]
            words += [f"step {(status.get('progress') or {}).get('step')}", status.get("message", "")]
        else:
            words += [manifest["spec"].get("nodeName") or "", metadata.get("deletionTimestamp") or ""]
        self._note("        " + " ".join(str(word) for word in words if word))
