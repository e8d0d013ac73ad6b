"""What faulthandler writes of a process, read back: where it is, in a line.

A thread is a header and its frames, the innermost first:

    Current thread 0x00007f0a4b3fc740 (most recent call first):
      File "/…/torch/distributed/distributed_c10d.py", line 2810 in all_reduce
      File "/…/trainyard_trainer/engine/processes.py", line 67 in add_up

A hang in native code shows as the Python line that called it, which is the one that people can act on.
"""

import re
from dataclasses import dataclass

FATAL = "Fatal Python error:"
"""What it begins with when the process crashes."""
_THREAD = re.compile(r"(Current thread|Thread) 0x[0-9a-f]+")
_FRAME = re.compile(r'  File "(?P<file>[^"]*)", line (?P<line>\d+) in (?P<function>.*)')
_OURS = "/trainyard_trainer/"
_COLLECTIVES = ("/torch/distributed/", "/deepspeed/comm/")
"""Code that is there to wait for other ranks."""


@dataclass(frozen=True)
class Frame:
    """One call."""

    file: str
    line: int
    function: str

    @property
    def ours(self) -> bool:
        """Whether it is a line of the trainer."""
        return _OURS in self.file

    @property
    def collective(self) -> bool:
        """Whether it waits for other ranks."""
        return any(part in self.file for part in _COLLECTIVES)

    @property
    def at(self) -> str:
        """`data/shards.py:40`"""
        for before in (_OURS, "/site-packages/"):
            _, found, path = self.file.rpartition(before)
            if found:
                return f"{path}:{self.line}"
        return f"{self.file.rpartition('/')[2]}:{self.line}"


def threads(text: str) -> list[list[Frame]]:
    """The frames of each thread, the innermost first; the one that runs Python's main program comes first of all."""
    found: list[list[Frame]] = []
    current = -1
    for line in text.splitlines():
        if header := _THREAD.match(line):
            if header[1] == "Current thread":  # where the signal was taken: Python's main thread
                current = len(found)
            found.append([])
        elif found and (frame := _FRAME.match(line)):
            found[-1].append(Frame(frame["file"], int(frame["line"]), frame["function"]))
    return [found.pop(current), *found] if found else []


def place(stacks: list[list[Frame]]) -> tuple[str, bool]:
    """`load (data/shards.py:40)`, the innermost call with the line of the trainer that leads to it; and whether it waits for
    other ranks. `stacks` are those of `threads`.

    Gradients are exchanged by threads of autograd where there are GPUs, so any thread in a collective counts.
    """
    main = next(iter(stacks), [])
    if not main:
        return "no Python code", False
    inner = next((stack[0] for stack in stacks if stack and stack[0].collective), main[0])
    ours = next((frame for frame in main if frame.ours), main[0])
    return f"{inner.function} ({ours.at})", inner.collective
