"""How an attempt ends, and how an agent does: its exit code, its termination log, and that nothing of it is left."""

import ctypes
import os
import signal
import time
from pathlib import Path

import pytest
from agents import DEADLINE, until_gone
from conditions import eventually

SAVES = "from trainyard_trainer import stopping\nstopping.hold_back()\n"
REPORTS = f"{SAVES}group.report(resumed_step=0)\n"
WAITS = f"{SAVES}import time\nwhile not group.stopping(): time.sleep(0.01)\n"
STOPS = WAITS + "from trainyard_trainer.errors import StopRequested\nraise StopRequested('saved step 3')"
HANGS = f"{SAVES}import time\ntime.sleep(1000)"


def raising(error: str, message: str = "") -> str:
    """A rank that fails with one of the trainer's errors."""
    return f"from trainyard_trainer import errors\nraise errors.{error}({message!r})"


LASTING = {
    "a stage that is done ends with 0": ("group.report(resumed_step=0)", 0, "Done", ""),
    "what would fail again ends with 10": (
        raising("PermanentError", "data: no text in it; add some"),
        10,
        "PermanentError",
        "data: no text in it; add some",
    ),
}


@pytest.mark.parametrize(("source", "exit_code", "cause", "message"), LASTING.values(), ids=LASTING.keys())
def test_what_no_further_attempt_changes_ends_the_agent(agent, source, exit_code, cause, message):
    agent.assign(source)
    assert agent.end() == exit_code
    said = agent.termination
    assert (said.exit_code, said.cause, said.message) == (exit_code, cause, message)


FAILURES = {
    "a full disk ends with 30": (
        "import errno, os\nraise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))",
        30,
        "StorageError",
        "storage failed: [Errno 28] No space left on device",
    ),
    "a peer that is gone ends with 30": (
        "raise RuntimeError('[../gloo/transport/tcp/pair.cc:534] Connection closed by peer [127.0.0.1]:4711')",
        30,
        "PeerLost",
        "lost another rank: [../gloo/transport/tcp/pair.cc:534] Connection closed by peer [127.0.0.1]:4711",
    ),
    "a stop that the group agreed on ends with 20": (raising("StopRequested"), 20, "Stopped", ""),
    "a mistake in the code ends with 1": ("1 / 0", 1, "Crashed", "ZeroDivisionError: division by zero"),
    "an exit code of a library is passed on": (
        "import os\nos._exit(77)",
        77,
        "Crashed",
        "rank 0 ended with exit code 77",
    ),
}


def test_an_agent_outlives_failed_attempts_and_tells_how_each_one_failed(agent):
    for attempt, (way, (source, exit_code, cause, message)) in enumerate(FAILURES.items(), start=1):
        agent.assign(source, attempt=attempt)
        said = agent.failed(attempt)
        assert (said.exit_code, said.cause, said.message) == (exit_code, cause, message), way
    agent.assign("group.report(resumed_step=0)", attempt=attempt + 1)
    assert agent.end() == 0


def test_a_crash_in_native_code_shows_its_signal_and_where_it_was(agent):
    agent.assign("import ctypes\nprint('a line before')\nctypes.string_at(1)")
    said = agent.failed()
    assert (said.exit_code, said.cause) == (139, "Crashed")
    assert said.message.startswith("rank 0 was ended by SIGSEGV in string_at (rank.py:")
    *_, before, error, innermost, _, _, _ = said.last_lines
    assert (before, error) == ("a line before", "Fatal Python error: Segmentation fault")
    assert innermost.startswith("  string_at (")


def test_nothing_of_a_failed_attempt_is_left_in_the_next(agent):
    agent.assign(
        f"""
print("a line of the first attempt")
group.report(progress={{'step': 4, 'steps': 9}}, resumed_step=3, metrics={{'first': 1}})
{raising("RetryableError")}"""
    )
    assert agent.failed().step == 4
    agent.assign(raising("RetryableError"), attempt=2)
    said = agent.failed(2)
    assert (said.step, said.progress, said.resumed_step, said.checkpoint) == (None, None, None, None)
    assert not any("first attempt" in line for line in said.last_lines)
    assert "trainyard_first" not in agent.request("/metrics", token=None)[1]


def test_a_failed_attempt_that_is_assigned_again_starts_nothing(agent):
    agent.assign(raising("RetryableError"))
    agent.failed()
    before = agent.state()
    agent.assign(raising("RetryableError"))
    assert agent.state() == before


def test_after_a_failed_attempt_the_port_for_rank_0_is_free_again(agent):
    listens = "import os, socket\nsocket.create_server(('', int(os.environ['MASTER_PORT'])))"
    agent.assign(f"{listens}\n{raising('RetryableError')}")
    agent.failed()
    agent.assign(listens, attempt=2)
    assert agent.end() == 0


def test_an_agent_that_waits_for_its_next_place_ends_with_20_when_it_is_stopped(agent):
    agent.assign(raising("RetryableError"))
    agent.failed()
    agent.signal(signal.SIGTERM)
    assert agent.end() == 20
    assert agent.termination.cause == "Stopped"


def test_a_rank_that_is_killed_takes_the_others_along_and_is_named_as_the_first_failure(agent):
    source = f"print('rank', group.rank, 'runs')\ngroup.report(progress={{'step': 4, 'steps': 9}})\n{STOPS}"
    agent.assign(source, ranks=2)
    state = agent.when(lambda state: state.progress and "[rank 1] rank 1 runs" in agent.log.read_text())
    os.kill(state.ranks[1].pid, signal.SIGKILL)
    said = agent.failed()
    assert said.exit_code == 137
    assert (said.cause, said.rank, said.step, said.progress.step) == ("Killed", 1, 4, 4)
    assert said.last_lines == ["rank 1 runs"]
    until_gone([rank.pid for rank in state.ranks])


def test_ranks_that_hang_on_a_dead_one_are_killed(agent):
    source = f"""{SAVES}
import time
began = group.output / "began"
if group.rank == 1:
    began.touch()
    time.sleep(1000)
while not began.exists():
    time.sleep(0.01)
raise OSError(5, "I/O error")
"""
    agent.assign(source, ranks=2)
    pids = [rank.pid for rank in agent.state().ranks]
    said = agent.failed()
    assert (said.exit_code, said.rank, said.cause) == (30, 0, "StorageError")
    assert "rank_ended attempt=1 rank=1 exit_code=-9" in agent.log.read_text()
    until_gone(pids)


def test_an_idle_agent_that_is_stopped_ends_with_20(agent):
    agent.signal(signal.SIGTERM)
    assert agent.end() == 20
    assert agent.termination.cause == "Stopped"


def test_sigterm_lets_ranks_save_and_ends_with_20(agent):
    agent.assign(f"{SAVES}print('has something to save')\n{STOPS}", ranks=2)
    eventually(lambda: agent.log.read_text().count("has something to save") == 2, DEADLINE, "two ranks that save")
    agent.signal(signal.SIGTERM)
    assert agent.end() == 20
    said = agent.termination
    assert (said.exit_code, said.cause, said.message) == (20, "Stopped", "saved step 3")


def test_a_rank_that_has_nothing_to_save_does_not_wait_for_anything(agent):
    agent.assign("group.report(resumed_step=0)\nimport time\ntime.sleep(1000)", ranks=2)
    agent.when(lambda state: state.resumed_step == 0)
    agent.signal(signal.SIGTERM)
    assert agent.end() == 20
    assert (agent.termination.cause, agent.termination.message) == ("Stopped", "nothing was left to save")


def test_sigterm_before_a_rank_has_begun_ends_with_20(agent):
    agent.assign(STOPS)
    agent.signal(signal.SIGTERM)
    assert agent.end() == 20


def test_a_stop_that_comes_after_the_last_step_is_still_done(agent):
    agent.assign(f"{REPORTS}{WAITS}")
    agent.when(lambda state: state.resumed_step == 0)
    agent.signal(signal.SIGTERM)
    assert agent.end() == 0


def test_a_stopping_agent_takes_no_assignment(agent):
    agent.assign(f"{REPORTS}{HANGS}")
    agent.when(lambda state: state.resumed_step == 0)
    agent.signal(signal.SIGTERM)
    agent.when(lambda state: state.phase == "stopping")
    assert agent.put(agent.assignment(STOPS, attempt=2))[0] == 409


def test_ranks_that_dont_save_in_time_are_killed_before_the_grace_period_is_over(start_agent):
    agent = start_agent(TRAINYARD_GRACE_SECONDS="6")
    agent.assign(f"{REPORTS}{HANGS}")
    state = agent.when(lambda state: state.resumed_step == 0)
    began = time.monotonic()
    agent.signal(signal.SIGTERM)
    assert agent.end() == 137
    assert time.monotonic() - began < 5
    assert agent.termination.cause == "Killed"
    until_gone([state.ranks[0].pid])


def test_ranks_die_with_an_agent_that_is_killed(agent):
    agent.assign(f"{REPORTS}{HANGS}", ranks=2)
    pids = [rank.pid for rank in agent.when(lambda state: state.resumed_step == 0).ranks]
    agent.signal(signal.SIGKILL)
    until_gone(pids)


def test_ranks_die_with_an_agent_that_is_killed_before_they_have_begun(agent):
    agent.assign(HANGS)
    pids = [rank.pid for rank in agent.state().ranks]
    agent.signal(signal.SIGKILL)
    until_gone(pids)


def test_a_pending_long_poll_hears_of_the_end(agent):
    agent.assign("group.report(resumed_step=0)\nimport time\ntime.sleep(2)")
    state = agent.when(lambda state: state.phase in ("succeeded", "failed"))
    assert (state.phase, state.termination.cause, state.ranks[0].exit_code) == ("succeeded", "Done", 0)
    assert agent.end() == 0


def test_the_termination_log_is_bounded_whatever_a_rank_says(agent):
    agent.assign(f"for n in range(100): print(n, 'ü' * 500)\n{raising('PermanentError', 'é' * 10_000)}")
    assert agent.end() == 10
    assert agent.termination_log.stat().st_size <= 4096
    assert agent.termination.message.startswith("é" * 1000)


def test_last_lines_are_the_last_and_a_line_without_an_end_counts(agent):
    agent.assign("import os\nfor n in range(100): print('line', n)\nprint('half a li', end='')\nos._exit(3)")
    said = agent.failed()
    assert said.exit_code == 3
    assert said.last_lines[-3:] == ["line 98", "line 99", "half a li"]
    assert "[rank 0] line 0\n" in agent.log.read_text()


def test_a_grandchild_that_holds_the_pipes_keeps_nothing_waiting(agent):
    agent.assign("import subprocess\nprint(subprocess.Popen(['sleep', '20'], close_fds=False).pid, flush=True)")
    began = time.monotonic()
    assert agent.end() == 0
    assert time.monotonic() - began < 15
    os.kill(int(agent.log.read_text().partition("[rank 0] ")[2].split()[0]), signal.SIGKILL)


def test_orphans_are_reaped_as_by_any_process_1(start_agent):
    PR_SET_CHILD_SUBREAPER = 36
    agent = start_agent(before_exec=lambda: ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1))
    agent.assign(f"import subprocess\nsubprocess.run(['sh', '-c', 'sleep 0.1 &'])\n{REPORTS}{WAITS}")
    state = agent.when(lambda state: state.resumed_step == 0)
    children = Path(f"/proc/{agent.process.pid}/task/{agent.process.pid}/children")
    rank = str(state.ranks[0].pid)
    eventually(lambda: children.read_text().split() == [rank], DEADLINE, "only the rank is left", children.read_text)


def test_an_agent_that_cant_make_sense_of_its_rank_ends_with_it(agent):
    agent.assign(f"import os\nos.write(int(os.environ['TRAINYARD_REPORT_FD']), b'no JSON\\n')\n{HANGS}")
    pids = [rank.pid for rank in agent.state().ranks]
    assert agent.end() == 1
    assert agent.termination.message.startswith("agent: ValidationError")
    until_gone(pids)


def test_an_address_that_is_taken_is_explained(agent, start_agent):
    with pytest.raises(AssertionError, match="TRAINYARD_BIND"):
        start_agent(TRAINYARD_BIND=agent.address)


def test_a_missing_token_is_explained(start_agent, tmp_path):
    with pytest.raises(AssertionError, match="TRAINYARD_TOKEN_FILE"):
        start_agent(TRAINYARD_TOKEN_FILE=str(tmp_path / "nowhere"))
