"""One run on this machine, driven by the operator's own loop: what a cluster has in a Deployment, assembled here."""

import asyncio
import logging
from datetime import UTC, datetime

from trainyard_api.status import FINISHED, Phase, Reason, Status

from ..cluster.agent_access import AgentAccess
from ..cluster.home import Home
from ..cluster.local import LocalCluster
from ..cluster.protocol import Manifest
from ..decide.active import clocked
from ..decide.observation import Pod, Settings, read_pod
from ..observe.logs import JsonLines
from ..observe.metrics import Metrics
from ..runtime.agents import Agents
from ..runtime.loop import Loop
from ..runtime.queue import WorkQueue
from ..runtime.reconcile import Reconciler
from ..runtime.store import Store

IMAGE = "local"
"""Pods here run what is installed; nobody pulls this."""


class LocalRun:
    """Drives one run from `start` to `stop`. All methods belong to one event loop."""

    def __init__(self, home: Home, run: Manifest, *, agent_tls: bool = False) -> None:
        self.home = home
        self.key = run["metadata"]["namespace"], run["metadata"]["name"]
        self.metrics = Metrics()
        self._run = run
        queue = WorkQueue()
        self.store = Store(queue.add, _now)
        self.cluster = LocalCluster(home, self.store)
        self._agents = Agents(self.store, AgentAccess(home.key()), _now)
        reconciler = Reconciler(
            self.store,
            self.cluster,
            self._agents,
            Settings(trainer_image=IMAGE, agent_tls=agent_tls, excludes_nodes=False),
            _now,
            on_status=lambda key, old, new: self.metrics.record_status(old, new),
        )
        self._loop = Loop(queue, reconciler, self.metrics.record_pass)
        self.metrics.show_queue(queue)
        self.metrics.show_runs(self.store.runs, _now)
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> asyncio.Task[None]:
        """End what an earlier process left, and begin to reconcile. The loop that is returned ends only by an error."""
        await self.cluster.open_run(self._run)
        self._log_to_file()
        self._task = asyncio.create_task(self._loop.run(), name="reconcile loop")
        return self._task

    def status(self) -> Status:
        """The status as last written."""
        return Status.read_stored((self.store.run(self.key) or {}).get("status") or {})

    def live_status(self) -> Status:
        """The status, with what the agent of rank 0 has said since."""
        status = self.status()
        for pod in self.store.pods(self.key):
            view = self.store.agent(pod["metadata"]["uid"])
            if view and view.state.progress and view.state.attempt == status.attempt:
                checkpoint = view.state.checkpoint or status.checkpoint
                return status.model_copy(update={"progress": view.state.progress, "checkpoint": checkpoint})
        return status

    async def stop(self, grace_seconds: float | None = None) -> None:
        """End the loop, then the pods: they save within their grace period. Record how far they have come.

        Called again, with less grace, while it waits, it makes the first call end sooner.
        """
        if self._task:
            self._task.cancel()
            await asyncio.wait({self._task})
        await self._agents.close()
        await self._rest([read_pod(pod) for pod in await self.cluster.close(grace_seconds)])

    async def _rest(self, ended: list[Pod]) -> None:
        """Leave a status that is true of a run nobody drives, unless it has ended."""
        run, status = self.store.run(self.key), self.status()
        if run is None or status.phase in (*FINISHED, Phase.SUSPENDED):
            return
        of_rank_0 = [pod for pod in ended if (pod.stage, pod.worker) == (status.stage, 0)]
        newest = max(of_rank_0, key=lambda pod: pod.attempt, default=None)
        said = newest.termination if newest else None
        update = {
            "phase": Phase.PENDING,
            "reason": Reason.STAGE_PENDING,
            "message": "stopped; `trainyard run` with the same file resumes it",
            "workers": status.workers.model_copy(update={"ready": 0}),
            "progress": (said.progress if said else None) or status.progress,
            "checkpoint": (said.checkpoint if said else None) or status.checkpoint,
            "waiting": None,
        }
        await self.cluster.write_status(run, clocked(status.model_copy(update=update), _now()).wire())

    def _log_to_file(self) -> None:
        handler = logging.FileHandler(self.home.folder(*self.key) / "logs" / "operator.log")
        handler.setFormatter(JsonLines())
        logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)


def _now() -> datetime:
    return datetime.now(UTC)
