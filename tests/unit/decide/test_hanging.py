"""How agents' words of silent ranks become one sentence: what is seen, what must follow."""

from typing import Any

import pytest
from builders import a_run, ago, pod
from expectations import Cases, Expectation, becomes, check, says, tells, unchanged
from trainyard_api.protocol import Hang, PeerState, Place
from trainyard_api.status import Phase, Reason
from trainyard_operator.decide.observation import format_time

WAITS = ("waits", "all_reduce (engine/processes.py:67)")
LOADS = ("runs", "load (data/shards.py:40)")
STOPPED = ("unresponsive", "stopped (kernel state T, in do_signal_stop)")
RUNNING = a_run(recovery={"hangSeconds": 60}).in_stage().with_pods(pod(0), pod(1, node="node-b"))


def hang(places: dict[int, tuple[str, str]], **fields: Any) -> Hang:
    """What an agent tells of ranks that were last heard of 61 s ago."""
    each = [Place(ranks=[rank], state=state, where=where) for rank, (state, where) in places.items()]  # type: ignore[arg-type]
    return Hang(silent=list(places), since=format_time(ago(61)), places=each, **fields)


def told(*hangs: Hang, changed: float = 1, **state: Any):  # type: ignore[no-untyped-def]
    """The run whose agents, from the first on, tell this."""
    peers = [PeerState(worker=worker, attempt=2, phase="running", hang=each) for worker, each in enumerate(hangs)]
    return RUNNING.training(hang=hangs[0], peers=peers[1:], changed=changed, **state)


def records(**fields: object) -> Expectation:
    """The last recovery has these."""
    return lambda decision, _: {name: getattr(decision.status.recoveries[-1], name) for name in fields} == fields


CASES: Cases = {
    "the rank that others wait for is named, with its pod and node": (
        told(
            hang({0: WAITS}, stacks="file:///s/stacks/attempt-2"), hang({1: LOADS}, stacks="file:///s/stacks/attempt-2")
        ),
        (
            becomes(Phase.RECOVERING, Reason.HUNG),
            says(
                "no step for 61 s: rank 1 is in load (data/shards.py:40); rank 0 waits in all_reduce "
                "(engine/processes.py:67); stacks: file:///s/stacks/attempt-2"
            ),
            tells("Hung", "rank 1 is in load"),
            records(
                pod="tiny-base-1-2", node="node-b", rank=1, stacks="file:///s/stacks/attempt-2", detect_seconds=61.0
            ),
            lambda d, _: d.status.restarts.hangs == 1,
        ),
    ),
    "a rank that does not respond is it, whatever others do": (
        told(hang({0: STOPPED}), hang({1: LOADS})),
        (says("rank 0 does not respond: stopped (kernel state T"), records(pod="tiny-base-0-2", rank=0, stacks=None)),
    ),
    "where all wait for one another nobody is named": (
        told(hang({0: WAITS}), hang({1: WAITS})),
        (says("ranks 0, 1 wait in all_reduce"), records(pod="", node="", rank=None)),
    ),
    "the other agents are given a moment to tell": (told(hang({0: WAITS})), (unchanged,)),
    "an agent that tells nothing is not waited for for long": (
        told(hang({0: WAITS}), changed=6),
        (
            becomes(Phase.RECOVERING, Reason.HUNG),
            says("rank 0 waits in all_reduce", "pods whose agents tell nothing: tiny-base-1-2"),
            records(pod="tiny-base-1-2", node="node-b", rank=None),
        ),
    ),
    "an agent whose ranks crash meanwhile tells the cause": (
        told(hang({0: WAITS})).training(hang=hang({0: WAITS}), peers=[]).with_pods(pod(0), pod(1, phase="Failed")),
        (lambda d, _: d.status.reason != Reason.HUNG,),
    ),
    "agents that have nothing to say and say nothing of it are hung themselves": (
        RUNNING.training(changed=121),
        (becomes(Phase.RECOVERING, Reason.HUNG), says("agents say nothing of it"), records(detect_seconds=121.0)),
    ),
    "but not before agents should have told": (
        RUNNING.training(changed=119),
        (becomes(Phase.RUNNING, Reason.TRAINING),),
    ),
    "before its first step a stage is given startSeconds": (
        RUNNING.training(step=0, changed=1000),
        (becomes(Phase.RUNNING, Reason.TRAINING),),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_hanging(name: str) -> None:
    check(*CASES[name])


def test_many_ranks_are_counted() -> None:
    many = hang({}, stacks="").model_copy(
        update={"places": [Place(ranks=list(range(9)), state="waits", where="broadcast (a.py:1)")]}
    )
    assert "9 ranks wait in broadcast (a.py:1)" in told(many, changed=6).decide().status.message
