"""The operator's process on Kubernetes: kopf's watches, the reconcile loop and the pages of health and metrics in one
event loop. It ends with 0 on SIGTERM, and with 1 as soon as any of its parts has ended: a restart is the repair.
"""

import argparse
import asyncio
import logging
import os
import signal
import sys
import time
from collections.abc import Awaitable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import aiohttp
from trainyard_api.names import KIND
from yarl import URL

from ..cluster.access import Access, find_connection
from ..cluster.kubernetes import ApiError, KubernetesCluster
from ..cluster.protocol import GoneError
from ..decide.observation import Settings
from ..observe.health import Health
from ..observe.logs import write_json_logs
from ..observe.metrics import Metrics
from ..observe.server import serving
from .agents import Agents
from .kopf_wiring import watch, watched_paths
from .loop import Loop
from .queue import WorkQueue
from .reconcile import Reconciler
from .store import Store

FIRST_LISTS_SECONDS = 120.0
"""How long the API server may be away, or our CRD missing, when the process starts."""
FIRST_LISTS_PAUSE_SECONDS = 2.0
STOP_SECONDS = 10.0
"""How long closing everything may take on SIGTERM; nothing is lost by cutting it short."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Options:
    """What the platform team says on the command line or in the environment."""

    trainer_image: str
    key: bytes
    namespaces: tuple[str, ...]
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
        first = error.exceptions[0] if isinstance(error, ExceptionGroup) else error
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
    flag("--watch-namespaces", "TRAINYARD_WATCH_NAMESPACES", "", "comma-separated; empty watches all")
    flag("--port", "TRAINYARD_PORT", "8080", "port of /healthz, /readyz and /metrics")
    flag("--log-level", "TRAINYARD_LOG_LEVEL", "info", "debug, info, warning or error")
    given = parser.parse_args(arguments)
    if not given.trainer_image:
        parser.error("--trainer-image is empty; name the image that runs without spec.image are to use")
    if given.log_level not in ("debug", "info", "warning", "error"):
        parser.error(f"--log-level is {given.log_level!r}; use debug, info, warning or error")
    if not given.port.isdigit():
        parser.error(f"--port is {given.port!r}; use a number")
    try:
        key = Path(given.key_file).read_bytes().strip() if given.key_file else b""
    except OSError as error:
        parser.error(f"--key-file can't be read: {error}")
    if len(key) < 16:
        parser.error("--key-file must name a file with at least 16 bytes, the same ones after each restart")
    namespaces = tuple(name.strip() for name in given.watch_namespaces.split(",") if name.strip())
    return Options(given.trainer_image, key, namespaces, int(given.port), given.log_level)


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
    store = Store(queue.add, _now)
    access = Access(find_connection(), answered)
    async with AsyncExitStack() as open_things:
        cluster = KubernetesCluster(access, options.key, options.namespaces)
        open_things.push_async_callback(cluster.close)
        agents = Agents(store, cluster)
        open_things.push_async_callback(agents.close)
        metrics.show_queue(queue)
        metrics.show_runs(store.runs, _now)
        metrics.show_lags(health.loop_lag, health.watch_age)
        await open_things.enter_async_context(serving(metrics, options.port, health.troubles))
        await _first_lists(store, cluster)
        health.listed = True
        log.info("ready", extra={"server": access.server, "runs": len(store.runs())})
        reconciler = Reconciler(
            store,
            cluster,
            agents,
            Settings(trainer_image=options.trainer_image),
            _now,
            on_status=lambda key, old, new: metrics.record_status(old, new),
        )
        loop = Loop(queue, store, cluster, reconciler, _now, metrics.record_pass, metrics.record_ghosts)
        async with asyncio.TaskGroup() as parts:
            parts.create_task(_lasting(watch(store, access, options.namespaces, lambda: _on_signals(stop)), "watches"))
            parts.create_task(_lasting(loop.run(), "reconcile loop"))
            parts.create_task(_lasting(health.measure(), "health"))


async def _lasting(part: Awaitable[None], name: str) -> None:
    """Turn the end of a part that should never end into an error."""
    await part
    raise RuntimeError(f"the {name} ended")


async def _first_lists(store: Store, cluster: KubernetesCluster) -> None:
    """Learn of all runs and pods, waiting for an API server or CRD that isn't there yet."""
    deadline = time.monotonic() + FIRST_LISTS_SECONDS
    while True:
        began = _now()
        try:
            store.repair(await cluster.list_runs(), KIND, began)
            store.repair(await cluster.list_pods(), "Pod", began)
            return
        except (aiohttp.ClientError, TimeoutError, ApiError, GoneError) as error:
            if time.monotonic() > deadline:
                raise
            log.warning("cannot list yet", extra={"error": str(error) or type(error).__name__})
        await asyncio.sleep(FIRST_LISTS_PAUSE_SECONDS)


def _now() -> datetime:
    return datetime.now(UTC)
