"""The operator's process on Kubernetes: kopf's watches, leadership, the reconcile loop and the pages of health and metrics in
one event loop. It ends with 0 on SIGTERM, and with 1 as soon as any of its parts has ended: a restart is the repair.

Every process watches and knows everything; the one that holds the Lease acts, the others wait for it.
"""

import argparse
import asyncio
import logging
import os
import signal
import socket
import sys
import time
import uuid
from collections.abc import Awaitable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from yarl import URL

from ..cluster.access import Access, find_connection
from ..cluster.agent_access import AgentAccess
from ..cluster.gate import WriteGate
from ..cluster.kubernetes import KubernetesCluster
from ..cluster.leases import Lease
from ..decide.observation import Settings
from ..observe.health import Health
from ..observe.logs import write_json_logs
from ..observe.metrics import Metrics
from ..observe.server import serving
from .agents import Agents
from .kopf_wiring import watch, watched_paths
from .leading import lead
from .lease import Leadership
from .listing import keep_listing, take_in_patiently
from .queue import WorkQueue
from .reconcile import Reconciler
from .store import Store

STOP_SECONDS = 10.0
"""How long closing everything may take on SIGTERM; nothing is lost by cutting it short."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Options:
    """What the platform team says on the command line or in the environment."""

    trainer_image: str
    key: bytes
    agent_tls: bool
    namespaces: tuple[str, ...]
    lease_namespace: str
    lease_name: str
    deployment: str
    identity: str
    port: int
    log_level: str


def main() -> None:
    """Run the operator until SIGTERM."""
    options = read_options(sys.argv[1:])
    write_json_logs(options.log_level)
    code = 0
    try:
        asyncio.new_event_loop().run_until_complete(operate(options))
    except Exception as error:
        first = error
        while isinstance(first, ExceptionGroup):
            first = first.exceptions[0]
        log.critical("operator ended", exc_info=True, extra={"why": str(first) or type(first).__name__})
        code = 1
    logging.shutdown()
    os._exit(code)  # at once: tasks of kopf now and then swallow their cancellation, and asyncio.run waits for all


def read_options(arguments: list[str]) -> Options:
    """Read the command line; flags that aren't given are taken from the environment."""
    parser = argparse.ArgumentParser(
        prog="trainyard-operator",
        description="Reconciles TrainingRuns of a Kubernetes cluster: the one whose service account is mounted here, "
        "else the current context of KUBECONFIG.",
    )

    def flag(name: str, variable: str, default: str, text: str) -> None:
        parser.add_argument(name, default=os.environ.get(variable, default), help=f"{text} (environment: {variable})")

    flag("--trainer-image", "TRAINYARD_TRAINER_IMAGE", "", "image of runs that name none")
    flag("--key-file", "TRAINYARD_KEY_FILE", "", "file with the secret that tokens of agents are derived from")
    flag("--agent-tls", "TRAINYARD_AGENT_TLS", "off", "on: agents of groups that begin from now on serve HTTPS")
    flag("--watch-namespaces", "TRAINYARD_WATCH_NAMESPACES", "", "comma-separated; empty watches all")
    flag(
        "--lease-namespace", "TRAINYARD_LEASE_NAMESPACE", "", "where the Lease is; empty: the pod's, or context's, own"
    )
    flag("--lease-name", "TRAINYARD_LEASE_NAME", "trainyard", "of all operators that name the same Lease, one acts")
    flag("--deployment", "TRAINYARD_DEPLOYMENT", "", "that this process belongs to, and that the Lease is to go with")
    own_name = f"{socket.gethostname()}-{uuid.uuid4().hex[:8]}"
    flag("--identity", "POD_NAME", own_name, "name to hold the Lease under: the pod's, or one that no process has had")
    flag("--port", "TRAINYARD_PORT", "8080", "port of /healthz, /readyz and /metrics")
    flag("--log-level", "TRAINYARD_LOG_LEVEL", "info", "debug, info, warning or error")
    given = parser.parse_args(arguments)
    if not given.trainer_image:
        parser.error("--trainer-image is empty; name the image that runs without spec.image are to use")
    if given.log_level not in ("debug", "info", "warning", "error"):
        parser.error(f"--log-level is {given.log_level!r}; use debug, info, warning or error")
    if given.agent_tls not in ("on", "off"):
        parser.error(f"--agent-tls is {given.agent_tls!r}; use on or off")
    if not given.port.isdigit():
        parser.error(f"--port is {given.port!r}; use a number")
    try:
        key = Path(given.key_file).read_bytes().strip() if given.key_file else b""
    except OSError as error:
        parser.error(f"--key-file can't be read: {error}")
    if len(key) < 16:
        parser.error("--key-file must name a file with at least 16 bytes, the same ones after each restart")
    namespaces = tuple(name.strip() for name in given.watch_namespaces.split(",") if name.strip())
    return Options(
        trainer_image=given.trainer_image,
        key=key,
        agent_tls=given.agent_tls == "on",
        namespaces=namespaces,
        lease_namespace=given.lease_namespace,
        lease_name=given.lease_name,
        deployment=given.deployment,
        identity=given.identity,
        port=int(given.port),
        log_level=given.log_level,
    )


async def operate(options: Options) -> None:
    """Everything, until SIGTERM or SIGINT; raises if a part of it ends before."""
    stop = asyncio.Event()
    _on_signals(stop)
    work = asyncio.create_task(_work(options, stop), name="operator")
    stopped = asyncio.create_task(stop.wait(), name="stop")
    await asyncio.wait({work, stopped}, return_when=asyncio.FIRST_COMPLETED)
    stopped.cancel()
    if work.done():
        work.result()
        return
    log.info("stopping")
    work.cancel()
    await asyncio.wait({work}, timeout=STOP_SECONDS)


def _on_signals(stop: asyncio.Event) -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)


async def _work(options: Options, stop: asyncio.Event) -> None:
    metrics = Metrics()
    health = Health(time.monotonic, watched_paths(options.namespaces))

    def answered(method: str, url: URL, code: str) -> None:
        metrics.record_request(method, code)
        if "watch" in url.query and code == "200":
            health.saw(url.path)

    queue = WorkQueue(on_taken=metrics.record_queued)
    gate = WriteGate()
    connection = find_connection()
    access = Access(connection, answered)
    async with AsyncExitStack() as open_things:
        cluster = KubernetesCluster(access, options.namespaces, writing=gate.writing)
        open_things.push_async_callback(cluster.close)
        system = options.lease_namespace or connection.default_namespace or "default"
        lease = Lease(access, system, options.lease_name, options.deployment)
        open_things.push_async_callback(lease.close)
        leadership = Leadership(lease, options.identity, gate)
        store = Store(lambda key: queue.add(key) if leadership.leads else None, _now)
        agents = Agents(store, AgentAccess(options.key), _now, gate.writing)
        open_things.push_async_callback(agents.close)
        metrics.show_queue(queue)
        metrics.show_runs(lambda: store.runs() if leadership.leads else [], _now)
        metrics.show_lags(health.loop_lag, health.watch_age)
        metrics.show_leadership(lambda: leadership.leads, options.lease_name)
        await open_things.enter_async_context(serving(metrics, options.port, health.troubles))
        await take_in_patiently(store, cluster, _now)
        health.listed = True
        log.info("ready", extra={"server": access.server, "runs": len(store.runs())})

        def reconciler() -> Reconciler:
            settings = Settings(trainer_image=options.trainer_image, agent_tls=options.agent_tls)
            told = metrics.record_status
            return Reconciler(store, cluster, agents, settings, _now, lambda key, old, new: told(old, new))

        async with asyncio.TaskGroup() as parts:
            parts.create_task(_lasting(watch(store, access, options.namespaces, lambda: _on_signals(stop)), "watches"))
            parts.create_task(_lasting(keep_listing(store, cluster, _now, metrics.record_ghosts), "re-lists"))
            leading = lead(leadership, store, cluster, queue, reconciler, _now, metrics.record_pass)
            parts.create_task(_lasting(leading, "reconcile loop"))
            parts.create_task(_lasting(health.measure(), "health"))


async def _lasting(part: Awaitable[None], name: str) -> None:
    """Turn the end of a part that should never end into an error."""
    await part
    raise RuntimeError(f"the {name} ended")


def _now() -> datetime:
    return datetime.now(UTC)
