"""What agent 0 hears from the other agents of its group, and when they say it."""

import json
import signal

from agents import errors_of

WAITS = (
    "import time\nfrom trainyard_trainer import stopping\nstopping.hold_back()\n"
    "while not group.stopping(): time.sleep(0.01)\n"
)
FAILS = "from trainyard_trainer import errors\nraise errors.RetryableError('no storage')"


def place(agent, first, source, attempt=1, **fields):
    """The place of worker 1 in a group whose agent 0 is `first`."""
    assignment = agent.assignment(source, attempt=attempt, workers=2, worker=1, **fields)
    return assignment.model_copy(update={"addresses": [first.address, agent.address]})


def say(agent, **fields):
    """Tell agent 0 something as worker 1 would."""
    peer = {"worker": 1, "attempt": 1, "phase": "running"} | fields
    return agent.request("/peer", json.dumps(peer).encode(), method="PUT")


def test_agent_0_shows_what_others_say_of_the_current_attempt_alone(agent):
    agent.assign(WAITS, attempt=3, workers=2)
    assert say(agent, attempt=3)[0] == 200
    assert [(peer.worker, peer.phase) for peer in agent.state().peers] == [(1, "running")]

    status, body = say(agent, attempt=2)
    assert status == 409
    assert "the current attempt is 3" in errors_of(body)[0]
    assert say(agent, phase="asleep")[0] == 400

    assert say(agent, attempt=4, phase="failed")[0] == 200  # it had its assignment before us
    assert [peer.attempt for peer in agent.state().peers] == [3]
    agent.assign(WAITS, attempt=4, workers=2)
    assert [peer.phase for peer in agent.when(lambda state: state.attempt == 4).peers] == ["failed"]


def test_an_agent_tells_agent_0_of_each_phase_even_where_that_one_comes_later(start_agent):
    second = start_agent()
    first = start_agent()
    first.signal(signal.SIGSTOP)
    assert second.put(place(second, first, FAILS))[0] == 200
    second.failed()
    first.signal(signal.SIGCONT)

    first.assign(WAITS, workers=2)
    [peer] = first.when(lambda state: state.peers).peers
    assert (peer.worker, peer.phase, peer.termination.message) == (1, "failed", "no storage")

    first.assign(WAITS, attempt=2, workers=2)
    assert second.put(place(second, first, f"group.report(resumed_step=0)\n{WAITS}", attempt=2))[0] == 200
    second.when(lambda state: state.resumed_step == 0)
    first.when(lambda state: [each.phase for each in state.peers] == ["running"])
    second.signal(signal.SIGTERM)
    assert second.end() == 0
    first.when(lambda state: [each.phase for each in state.peers] == ["succeeded"])
