"""Where a process is, as faulthandler writes it."""

import pytest
from trainyard_trainer.agent.tracebacks import place, threads

PACKAGES = "/usr/lib/python3/site-packages"
TRAINER = f"{PACKAGES}/trainyard_trainer"


def thread(*frames: str, current: bool = False) -> str:
    """A thread with these frames, each `file:line function`."""
    lines = [f"{'Current thread' if current else 'Thread'} 0x00007f0a4b3fc740 (most recent call first):"]
    for frame in frames:
        at, _, function = frame.partition(" ")
        file, _, line = at.rpartition(":")
        lines.append(f'  File "{file}", line {line} in {function}')
    return "\n".join(lines) + "\n"


STOPPING = thread(f"{TRAINER}/stopping.py:60 _watch", "/usr/lib/python3/threading.py:975 run")
CASES = {
    "a line of the trainer": (
        STOPPING + thread(f"{TRAINER}/data/shards.py:40 load", f"{TRAINER}/rank.py:60 main", current=True),
        ("load (data/shards.py:40)", False),
    ),
    "a call into a library, with the line that leads there": (
        thread("/usr/lib/python3/gzip.py:507 read", f"{TRAINER}/data/sources.py:12 rows", current=True) + STOPPING,
        ("read (data/sources.py:12)", False),
    ),
    "a collective": (
        thread(
            f"{PACKAGES}/torch/distributed/distributed_c10d.py:2810 all_reduce",
            f"{PACKAGES}/torch/distributed/c10d_logger.py:81 wrapper",
            f"{TRAINER}/engine/processes.py:67 add_up",
            current=True,
        ),
        ("all_reduce (engine/processes.py:67)", True),
    ),
    "a collective of DeepSpeed's, in a thread of autograd": (
        thread(f"{PACKAGES}/deepspeed/comm/torch.py:200 all_reduce", f"{PACKAGES}/deepspeed/zero.py:1 hook")
        + thread(f"{PACKAGES}/torch/autograd/graph.py:8 run", f"{TRAINER}/engine/engine.py:60 gradients", current=True),
        ("all_reduce (engine/engine.py:60)", True),
    ),
    "no line of the trainer at all": (
        thread(f"{PACKAGES}/numpy/core.py:1 dot", "<string>:1 <module>", current=True),
        ("dot (numpy/core.py:1)", False),
    ),
    "nothing": ("", ("no Python code", False)),
}


@pytest.mark.parametrize(("text", "expected"), CASES.values(), ids=CASES.keys())
def test_where_a_process_is(text: str, expected: tuple[str, bool]) -> None:
    assert place(threads(text)) == expected
