"""Agents that are started for a test, and ended with it."""

import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from agents import AgentUnderTest

StartAgent = Callable[..., AgentUnderTest]


@pytest.fixture
def start_agent(tmp_path: Path) -> Iterator[StartAgent]:
    """Starts agents that answer, and ends what is left of them."""
    agents: list[AgentUnderTest] = []

    def start(before_exec: Callable[[], None] | None = None, **variables: str) -> AgentUnderTest:
        agents.append(AgentUnderTest(tmp_path / f"agent-{len(agents)}", tmp_path / "storage", variables, before_exec))
        return agents[-1].ready()

    yield start
    for agent in agents:
        if agent.process.poll() is None:
            agent.signal(signal.SIGKILL)
        agent.end()


@pytest.fixture
def agent(start_agent: StartAgent) -> AgentUnderTest:
    """An idle agent."""
    return start_agent()
