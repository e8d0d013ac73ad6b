"""What agent 0 hears from the other agents of its group, and when they say it."""

import json
import signal

from agents import errors_of

SAVES = "from trainyard_trainer import stopping\nstopping.hold_back()\n"
WAITS = f"{SAVES}import time\nwhile not group.stopping(): time.sleep(0.01)\n"
FAILS = "from trainyard_trainer import errors\nraise errors.RetryableError('no storage')"


def place(agent, first, source, attempt=1, **fields):
    """The place of worker 1 in a group whose agent 0 is `first`."""
    assignment = agent.assignment(source, attempt=attempt, workers=2, worker=1, **fields)
    return assignment.model_copy(update={"addresses": [first.address, agent.address]})


def say(agent, **fields):
    """Tell agent 0 something as worker 1 would."""
    peer = {"worker": 1, "attempt": 1, "phase": "running"} | fields
    return agent.request("/peer", json.dumps(peer).encode(), method="PUT")


def a_group(agents, workers):
    """Give the agents their places in a group of so many workers."""
    addresses = [each.address for each in agents]
    for worker, each in enumerate(agents):
        assignment = each.assignment(WAITS, workers=workers, worker=worker)
        assert each.put(assignment.model_copy(update={"addresses": addresses}))[0] == 200


def until_silent(agent, *workers):
    """The state in which the agent misses exactly these."""
    return agent.when(lambda state: tuple(state.silent) == workers)


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
    assert second.put(place(second, first, f"{SAVES}group.report(resumed_step=0)\n{WAITS}", attempt=2))[0] == 200
    second.when(lambda state: state.resumed_step == 0)
    first.when(lambda state: [each.phase for each in state.peers] == ["running"])
    second.signal(signal.SIGTERM)
    assert second.end() == 0
    first.when(lambda state: [each.phase for each in state.peers] == ["succeeded"])


def test_agents_are_missed_that_are_stopped_or_have_never_spoken_and_signs_of_life_are_no_news(start_agent):
    group, other = [start_agent() for _ in range(2)], [start_agent() for _ in range(2)]
    a_group(group, workers=3)
    a_group(other, workers=2)
    heard = group[0].when(lambda state: state.peers).version
    other[0].when(lambda state: state.peers)
    group[1].signal(signal.SIGSTOP)
    other[0].signal(signal.SIGSTOP)

    assert until_silent(group[0], 1, 2).version <= heard + 2
    until_silent(other[1], 0)
    assert say(group[0], attempt=0, worker=2)[0] == 409  # of an older attempt: the old pod on a node that came back
    group[1].signal(signal.SIGCONT)
    other[0].signal(signal.SIGCONT)
    until_silent(group[0], 2)
    until_silent(other[1])
    assert not group[1].state().silent  # it was itself that had slept
    assert not other[0].state().silent
    group[0].assign(WAITS, attempt=2)
    assert not group[0].when(lambda state: state.attempt == 2).silent
