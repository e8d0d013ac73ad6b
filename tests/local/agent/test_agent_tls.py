"""Agents that serve HTTPS: to whoever trusts their run's certificate and has its token, in either direction and to no other."""

import http.client
import os
import socket
import ssl
import urllib.error
from pathlib import Path

import pytest
from agents import DEADLINE, addresses, errors_of
from trainyard_api.tls import serving, trusting
from trainyard_operator.cluster.agent_access import AgentAccess

WAITS = "import time\nwhile not group.stopping(): time.sleep(0.01)\n"
COPIES = """
import json, time
from trainyard_trainer.checkpoint.copying import Copy
from trainyard_trainer.checkpoint.memory import Neighbourhood, _Elsewhere

url = Neighbourhood(group).url(0, rank=7, step=40)
copy = Copy(memoryview(b"forty of 7"), url, "")
while not copy._through: time.sleep(0.01)
print(json.dumps({"copied": copy.finish(), "read": _Elsewhere(url).read_range("", 0, 5).decode()}))
"""


@pytest.fixture
def identity(tmp_path):
    """The file of a run's key and certificate."""
    return _identity(tmp_path, "one")


def _identity(folder, uid):
    file = folder / f"{uid}.pem"
    file.write_text(AgentAccess(b"0123456789abcdef").identity(uid))
    return str(file)


def place(agent, first, source, **fields):
    """The place of worker 1 in a group whose agent 0 is `first`."""
    assignment = agent.assignment(source, workers=2, worker=1, **fields)
    return assignment.model_copy(update={"addresses": [first.address, agent.address]})


def test_it_answers_who_trusts_its_certificate_and_has_its_token_and_nobody_else(start_agent, identity, tmp_path):
    agent = start_agent(TRAINYARD_TLS_FILE=identity)
    assert agent.state().phase == "idle"
    status, body = agent.request("/state", token="another")
    assert (status, errors_of(body)) == (401, ["Authorization: needs `Bearer` and the token of this run"])
    assert agent.request("/metrics", token=None)[0] == 200

    agent.trust = trusting(Path(_identity(tmp_path, "other")).read_text())
    with pytest.raises(urllib.error.URLError) as refused:
        agent.state()
    assert isinstance(refused.value.reason, ssl.SSLCertVerificationError)
    agent.trust = None  # plain HTTP
    with pytest.raises((http.client.BadStatusLine, ConnectionError)):
        agent.state()
    assert "Traceback" not in agent.log.read_text()


def test_agents_tell_agent_0_and_ranks_copy_and_read_snapshots(start_agent, identity):
    first, second = (start_agent(TRAINYARD_TLS_FILE=identity) for _ in range(2))
    first.assign(WAITS, workers=2, memory_budget=100)
    assert second.put(place(second, first, COPIES))[0] == 200
    assert second.end() == 0
    assert second.said() == [{"copied": True, "read": "forty"}]
    assert [peer.phase for peer in first.when(lambda state: state.peers).peers] == ["succeeded"]


def test_whoever_shows_another_certificate_is_told_nothing(start_agent, identity, tmp_path):
    agent, other = start_agent(TRAINYARD_TLS_FILE=identity), next(addresses)
    with socket.create_server((other, 9400)) as listening:
        listening.settimeout(DEADLINE)
        assignment = agent.assignment(WAITS, workers=2, worker=1)
        assert agent.put(assignment.model_copy(update={"addresses": [other, agent.address]}))[0] == 200
        connection, _ = listening.accept()
        with connection, pytest.raises(ssl.SSLError, match=r"UNKNOWN_CA|EOF"):
            serving(Path(_identity(tmp_path, "other"))).wrap_socket(connection, server_side=True)


def test_without_a_certificate_that_it_can_read_it_does_not_start(start_agent, identity):
    with pytest.raises(AssertionError, match=r"TRAINYARD_TLS_FILE: .*; mount the run's Secret there"):
        start_agent(lambda: os.truncate(identity, 0), TRAINYARD_TLS_FILE=identity)
