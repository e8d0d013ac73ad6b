"""Process 1 of a trainer pod, put together: environment, HTTP server, signals, ranks, exit code."""

import asyncio
import signal
from functools import partial
from pathlib import Path
from typing import Any

from aiohttp import web
from prometheus_client import CollectorRegistry
from trainyard_api.exit_codes import ExitCode
from trainyard_api.names import AGENT_PORT
from trainyard_api.protocol import Termination
from trainyard_api.tls import serving, trusting

from ..telemetry.exposition import AgentMetrics
from .attempt import now
from .board import Board
from .ending import bounded
from .environment import Environment, hold_port
from .events import log
from .hanging import watch_ranks
from .hearing import tell_silence
from .pacing import watch_paces
from .peers import tell_first
from .server import application
from .supervisor import Agent

LAST_ANSWER_SECONDS = 0.5
"""How long those who wait for a state may take to fetch the last one, and agent 0 to be told of it."""


async def run(environment: Environment) -> int:
    """Be an agent until its work is over, and return the exit code."""
    try:
        token = environment.token_file.read_text().strip()
    except OSError as error:
        return _end(environment, f"TRAINYARD_TOKEN_FILE: {error}; mount the run's Secret there")
    if not token:
        return _end(environment, f"TRAINYARD_TOKEN_FILE: {environment.token_file} is empty; put the run's token there")

    try:
        tls = environment.tls_file
        served, trust = (serving(tls), trusting(tls.read_text())) if tls else (None, None)
    except OSError as error:  # of ssl as well
        return _end(environment, f"TRAINYARD_TLS_FILE: {error}; mount the run's Secret there")

    port, held = hold_port(environment.master_port)
    agent = Agent(environment, Board(port), held)
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGCHLD, agent.reap)
    for each in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(each, agent.stop)

    loop.set_exception_handler(partial(_on_error, agent))

    registry = CollectorRegistry()
    registry.register(AgentMetrics(agent.board, lambda: agent.metrics, agent.snapshots, environment.labels))
    runner = web.AppRunner(
        application(agent, token, registry), access_log=None, shutdown_timeout=LAST_ANSWER_SECONDS, handle_signals=False
    )
    await runner.setup()
    try:
        await web.TCPSite(runner, environment.bind, AGENT_PORT, ssl_context=served).start()
    except OSError as error:
        return _end(environment, f"TRAINYARD_BIND: {error}; give this agent an address of its own", ExitCode.RETRY)
    log("listening", address=f"{environment.bind}:{AGENT_PORT}", master_port=port)

    telling = asyncio.create_task(tell_first(agent, token, trust))
    watching = [asyncio.create_task(watch(agent)) for watch in (watch_ranks, watch_paces)]
    watching.append(asyncio.create_task(tell_silence(agent.hearing, agent.board)))
    for task in (telling, *watching):
        task.add_done_callback(partial(_on_end, agent))
    termination = await agent.terminated
    write_termination(environment.termination_log, termination)
    await asyncio.wait([telling], timeout=LAST_ANSWER_SECONDS)
    for task in (telling, *watching):
        task.cancel()
    await runner.cleanup()
    return termination.exit_code


def write_termination(path: Path, termination: Termination) -> None:
    """Leave the reason of the end where the kubelet looks for it."""
    try:
        path.write_bytes(bounded(termination))
    except OSError as error:
        log("termination_log_failed", path=str(path), error=str(error))


def _on_error(agent: Agent, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    loop.default_exception_handler(context)
    if "handle" in context:  # a callback of ours: reading a pipe, reaping, a signal
        agent.fail(context["exception"])


def _on_end(agent: Agent, task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()):
        agent.fail(error)


def _end(environment: Environment, message: str, code: ExitCode = ExitCode.PERMANENT) -> int:
    log("ended", message=message)
    cause = "PermanentError" if code == ExitCode.PERMANENT else "Crashed"
    write_termination(
        environment.termination_log, Termination(exit_code=code, cause=cause, message=message, time=now())
    )
    return code
