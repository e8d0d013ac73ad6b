"""Ranks that are forked from the warm process: as good as fresh ones, children of the agent, and not bound to their origin."""

import os
import signal
from pathlib import Path

from agents import AgentUnderTest, alive, until_gone

WAITS = "group.report(resumed_step=0)\nimport time\nwhile True: time.sleep(0.01)\n"
FACTS = """
import ctypes, faulthandler, json, os, signal, sys, threading
own = ("TRAINYARD_BIND", "TRAINYARD_KIND", "TRAINYARD_JOB", "PYTHONPATH")
print(json.dumps({
    "argv": sys.argv,
    "main": sys.modules["__main__"].__spec__.name,
    "path": [each for each in sys.path if "modules" not in each],
    "variables": sorted(name for name in os.environ),
    "place": {name: os.environ[name] for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "OMP_NUM_THREADS", "TRAINYARD_ATTEMPT")},
    "for C": ctypes.CDLL(None).getenv(b"MASTER_PORT") != 0,
    "handlers": [str(signal.getsignal(each)).split(" at ")[0] for each in signal.valid_signals()],
    "faulthandler": faulthandler.is_enabled(),
    "threads": [threading.active_count(), len(os.listdir("/proc/self/task"))],
    "agent is parent": os.getppid() == int(os.environ["TRAINYARD_AGENT_PID"]),
    "session is the agent's": os.getsid(0) == os.getsid(os.getppid()),
    "name": open("/proc/self/comm").read(),
    "descriptors": sorted(map(int, os.listdir("/proc/self/fd"))),
    "input": os.readlink("/proc/self/fd/0"),
    "unbuffered": sys.stdout.write_through,
}))
"""


def warm_process(agent: AgentUnderTest) -> int:
    """Its pid: that of the agent's first child."""
    return int(Path(f"/proc/{agent.process.pid}/task/{agent.process.pid}/children").read_text().split()[0])


def test_a_forked_rank_finds_what_a_fresh_one_finds(start_agent):
    said = []
    for kind in ("export", "evaluate"):
        agent = start_agent(TRAINYARD_KIND=kind)
        agent.assign(FACTS)
        assert agent.end() == 0
        said += agent.said()
    fresh, forked = said
    assert forked == fresh
    assert "warm stage=" in agent.log.read_text()


def test_ranks_outlive_the_warm_process_and_another_one_forks_the_next(start_agent):
    agent = start_agent(TRAINYARD_KIND="evaluate")
    agent.assign(WAITS, ranks=2)
    state = agent.when(lambda state: state.resumed_step == 0)
    first = warm_process(agent)
    os.kill(first, signal.SIGKILL)
    until_gone([first])
    assert all(alive(rank.pid) for rank in state.ranks)

    os.kill(state.ranks[1].pid, signal.SIGKILL)
    assert (agent.failed().exit_code, agent.state().termination.rank) == (137, 1)
    agent.assign(WAITS, attempt=2)
    agent.when(lambda state: state.attempt == 2 and state.resumed_step == 0)
    assert agent.log.read_text().count("warm stage=") == 2
    agent.signal(signal.SIGTERM)
    assert agent.end() == 20


def test_forked_ranks_and_the_warm_process_die_with_an_agent_that_is_killed(start_agent):
    agent = start_agent(TRAINYARD_KIND="evaluate")
    agent.assign(WAITS, ranks=2)
    state = agent.when(lambda state: state.resumed_step == 0)
    pids = [warm_process(agent), *(rank.pid for rank in state.ranks)]
    agent.signal(signal.SIGKILL)
    until_gone(pids)


def test_where_the_warm_process_cant_import_ranks_start_fresh(start_agent):
    agent = start_agent(TRAINYARD_KIND="evaluate", WARM_FAILS="1")
    agent.assign("group.report(resumed_step=0)")
    assert agent.end() == 0
    assert "warm_process_lost" in agent.log.read_text()
