"""What the kernel knows of a process: enough to tell one that was stopped, or waits for a disk, from one that computes.

/proc needs no rights for a process's own children, which ranks are of their agent.
"""

import signal
from pathlib import Path

STATES = {
    "R": "running",
    "S": "sleeping",
    "D": "waiting for a device",
    "T": "stopped",
    "t": "stopped by a debugger",
    "Z": "dead",
    "I": "idle",
}


def handles(pid: int, number: signal.Signals) -> bool:
    """Whether the process has a handler for the signal, which would else end it."""
    return _has(pid, "SigCgt", number)


def is_handling(pid: int, number: signal.Signals) -> bool:
    """Whether the signal is on its way to the process, or its handler is at work."""
    return any(_has(pid, mask, number) for mask in ("ShdPnd", "SigPnd", "SigBlk"))


def described(pid: int) -> str:
    """`stopped (kernel state T, in do_signal_stop)`"""
    state = _state(f"/proc/{pid}")
    return f"{STATES.get(state, 'unknown')} (kernel state {state}, in {_read(f'/proc/{pid}/wchan') or '?'})"


def threads(pid: int) -> list[str]:
    """A line a thread: number, name, state, the kernel function that it waits in, the system call that led there."""
    tasks = sorted(Path(f"/proc/{pid}/task").iterdir(), key=lambda task: int(task.name))
    return [
        f"{task.name} {_read(f'{task}/comm')} {_state(str(task))} {_read(f'{task}/wchan')} {_read(f'{task}/syscall')}"
        for task in tasks
    ]


def _has(pid: int, mask: str, number: signal.Signals) -> bool:
    lines = dict(line.partition(":")[::2] for line in _read(f"/proc/{pid}/status").splitlines())
    return bool(int(lines.get(mask, "0"), 16) >> (number - 1) & 1)


def _state(place: str) -> str:
    return next(iter(_read(f"{place}/stat").rpartition(")")[2].split()), "?")


def _read(file: str) -> str:
    """What the file says; nothing if the process is gone, or the kernel keeps it to itself."""
    try:
        return Path(file).read_text(errors="replace").strip()
    except OSError:
        return ""
