"""The agent's HTTP side: who may ask, what is refused, and what a long poll waits for."""

import threading
import time

from agents import errors_of, parsed, until_gone

WAITS = "import time\nwhile not group.stopping(): time.sleep(0.01)"


def test_health_and_metrics_need_no_token_and_the_rest_does(agent):
    assert agent.request("/healthz", token=None) == (200, "ok\n")
    assert agent.request("/metrics", token=None)[0] == 200
    for token in (None, "", "wrong", "ünïcode"):
        assert agent.request("/state", token=token and token.encode().decode("latin-1"))[0] == 401
        assert agent.request("/assignment", b"{}", token=None, method="PUT")[0] == 401
    assert agent.state().phase == "idle"


def test_an_idle_agent_offers_a_free_port_for_rank_0(agent, start_agent):
    assert agent.state().master_port > 1023
    assert start_agent(TRAINYARD_MASTER_PORT="29500").state().master_port == 29500


def test_a_malformed_assignment_is_refused_with_the_fields_that_are_wrong(agent):
    status, body = agent.request("/assignment", b'{"attempt": "soon", "worker": 0}', method="PUT")
    assert status == 400
    assert "workers: required, but not given" in errors_of(body)
    assert any(line.startswith("attempt: ") for line in errors_of(body))
    assert agent.request("/assignment", b"not JSON", method="PUT")[0] == 400
    assert agent.state().phase == "idle"


def test_a_malformed_long_poll_is_refused(agent):
    status, body = agent.request("/state?since=yesterday")
    assert status == 400
    assert "since" in errors_of(body)[0]


def test_the_same_assignment_again_changes_nothing(agent):
    assignment = agent.assignment(WAITS)
    assert agent.put(assignment)[0] == 200
    before = agent.state()
    assert agent.put(assignment)[0] == 200
    assert agent.state() == before


def test_an_older_attempt_and_another_assignment_of_the_same_one_are_refused(agent):
    agent.assign(WAITS, attempt=5)
    before = agent.state()
    for other in (agent.assignment(WAITS, attempt=4), agent.assignment(WAITS, attempt=5, workers=2)):
        status, body = agent.put(other)
        assert status == 409
        assert "the current attempt is 5" in errors_of(body)[0]
    assert agent.state() == before


def test_a_newer_attempt_ends_the_ranks_of_the_older_and_starts_its_own(agent):
    agent.assign(f"group.report(resumed_step=7)\n{WAITS}", attempt=1, ranks=2)
    old = agent.when(lambda state: state.resumed_step == 7)
    agent.assign(WAITS, attempt=2, ranks=1)
    new = agent.when(lambda state: state.phase == "running" and state.attempt == 2)
    assert new.resumed_step is None
    assert [rank.exit_code for rank in new.ranks] == [None]
    until_gone([rank.pid for rank in old.ranks])


def test_a_newer_attempt_doesnt_wait_for_ranks_that_hang(agent):
    agent.assign("group.report(resumed_step=1)\nimport time\ntime.sleep(1000)", attempt=1)
    old = agent.when(lambda state: state.resumed_step == 1)
    agent.assign(WAITS, attempt=2)
    agent.when(lambda state: state.attempt == 2 and state.phase == "running" and state.ranks)
    until_gone([old.ranks[0].pid])


def test_a_long_poll_answers_when_the_state_changes_or_the_wait_is_over(agent):
    version = agent.state().version
    began = time.monotonic()
    assert agent.state(since=version, wait=0.3).version == version
    assert time.monotonic() - began >= 0.3

    assignment = agent.assignment(WAITS)
    later = threading.Timer(0.2, agent.put, [assignment])
    began = time.monotonic()
    later.start()
    assert agent.state(since=version, wait=25).version > version
    assert time.monotonic() - began < 10
    later.join()


def test_a_version_of_another_life_is_answered_at_once(agent):
    began = time.monotonic()
    assert agent.state(since=1_000_000, wait=25).phase == "idle"
    assert time.monotonic() - began < 10


def test_fast_progress_makes_few_versions_and_the_last_is_never_lost(agent):
    reports = "for step in range(1, 2001): group.report(progress={'step': step, 'steps': 2000})"
    agent.assign(f"{reports}\n{WAITS}")
    began, first = time.monotonic(), agent.state().version
    state = agent.when(lambda state: state.progress and state.progress.step == 2000)
    assert state.version - first <= time.monotonic() - began + 2


def test_a_checkpoint_is_shown_at_once_with_the_progress_so_far(agent):
    source = """
for step in range(1, 11):
    group.report(progress={'step': step, 'steps': 10})
group.report(checkpoint={'step': 10, 'uri': 'file:///c/step-10', 'time': '2026-01-01T00:00:00Z'})
"""
    agent.assign(source + WAITS)
    state = agent.when(lambda state: state.checkpoint)
    assert (state.checkpoint.step, state.progress.step) == (10, 10)


def test_each_checkpoint_that_was_set_aside_is_shown(agent):
    bad = [{"step": step, "reason": "manifest.json is missing", "time": "2026-01-01T00:00:00Z"} for step in (20, 10)]
    agent.assign(
        "".join(f"group.report(quarantined={each})\n" for each in bad) + "group.report(resumed_step=5)\n" + WAITS
    )
    state = agent.when(lambda state: state.resumed_step == 5)
    assert [(each.step, each.reason) for each in state.quarantined] == [(each["step"], each["reason"]) for each in bad]


def test_metrics_show_what_was_reported_and_nothing_else(agent):
    labels = '{namespace="team",run="tiny",stage="base"}'
    idle = parsed(agent.request("/metrics", token=None)[1])
    assert idle[f"trainyard_attempt{labels}"] == 0
    assert not any(series.startswith(("trainyard_step", "trainyard_loss", "trainyard_checkpoint")) for series in idle)

    source = """
group.report(progress={'step': 3, 'steps': 9, 'loss': 2.5, 'tokens': 4096}, resumed_step=0, metrics={'data_wait_seconds': 0.25})
group.report(checkpoint={'step': 2, 'uri': 'file:///c', 'time': '2026-01-01T00:00:00Z', 'stall_seconds': 0.5})
"""
    agent.assign(source + WAITS, attempt=4)
    agent.when(lambda state: state.checkpoint)
    shown = parsed(agent.request("/metrics", token=None)[1])
    expected = {
        "attempt": 4,
        "ranks": 1,
        "step": 3,
        "steps": 9,
        "loss": 2.5,
        "tokens_total": 4096,
        "resumed_step": 0,
        "data_wait_seconds": 0.25,
        "checkpoint_step": 2,
        "checkpoint_timestamp_seconds": 1767225600,
        "checkpoint_stall_seconds": 0.5,
    }
    assert {name: shown[f"trainyard_{name}{labels}"] for name in expected} == expected
    assert f"trainyard_grad_norm{labels}" not in shown

    agent.assign(WAITS, attempt=5)
    agent.when(lambda state: state.attempt == 5)
    assert f"trainyard_loss{labels}" not in parsed(agent.request("/metrics", token=None)[1])
