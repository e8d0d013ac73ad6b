"""A process that has imported all that a stage needs, and forks ranks: `python -m trainyard_trainer.warm STAGE SOCKET`.

From assignment to the beginning of a rank's stage it takes 0.04 s instead of 5.0 s (median of 6, 2 cores, torch 2.x on CPU):
what is saved is importing torch, DeepSpeed and transformers. That includes what DeepSpeed imports with its first optimizer:
until its first step (small model, ZeRO 2) a rank then needs 0.26 s of CPU, not 2.4 s. This process imports them when its agent
starts, while the pod waits for its group, and does nothing else: no CUDA, no thread, no process group, so that a fork of it is
as good as a fresh interpreter. What it takes (265 MB) its forks share.

The agent asks over a Unix socket: the rank's whole environment as JSON, and the descriptors that it is to have under the
numbers they have there. Ranks are forked twice, so that they are children of the agent (their next subreaper), which reaps
them as if it had started them itself; they outlive this process, and die with the agent. A rank begins when the agent has
taken note of it and says go, so one that the agent has given up on never runs.
"""

import ctypes
import fcntl
import gc
import importlib
import json
import os
import runpy
import signal
import socket
import struct
import sys
import traceback
from typing import Any, NoReturn

LENGTH = struct.Struct("!Q")
"""What goes before a request, and what the answer, a pid, is."""
MOST_DESCRIPTORS = 200
PR_SET_PDEATHSIG = 1


def main() -> None:
    """Import, say so, and fork ranks until the agent is gone."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # which the agent may have begun without
    stage, descriptor = sys.argv[1], int(sys.argv[2])
    agent = socket.socket(fileno=descriptor)
    os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] = "1"  # whether there is a GPU is asked without initialising CUDA
    gc.disable()  # collections while modules are imported find nothing, and take a fifth of the time
    importlib.import_module(f"{__package__}.stages.{stage}")
    if engine := sys.modules.get(f"{__package__}.engine.engine"):
        engine.import_deepspeed()
    gc.collect()
    gc.freeze()  # a collection in a rank then copies no page of what is shared
    gc.enable()
    agent.send(b"\0")
    while request := _receive(agent):
        agent.send(LENGTH.pack(_fork(agent, *request)))


def _receive(agent: socket.socket) -> tuple[dict[str, Any], list[int]] | None:
    """The next request and the descriptors that came with it; None when the agent is gone."""
    length, descriptors, _, _ = socket.recv_fds(agent, LENGTH.size, MOST_DESCRIPTORS)
    if not length:
        return None
    with agent.makefile("rb", buffering=0) as stream:
        body = b""
        while len(body) < LENGTH.unpack(length)[0]:
            body += stream.read(LENGTH.unpack(length)[0] - len(body))
    return json.loads(body), descriptors


def _fork(agent: socket.socket, request: dict[str, Any], descriptors: list[int]) -> int:
    """Fork a rank that the agent is the parent of. Returns its pid, in this process."""
    read, write = os.pipe()
    if not (middle := os.fork()):
        if pid := os.fork():
            os.write(write, LENGTH.pack(pid))
            os._exit(0)
        for each in (read, write, agent.fileno()):
            os.close(each)
        _be_rank(request, descriptors)
    os.close(write)
    for each in descriptors:
        os.close(each)
    os.waitpid(middle, 0)
    [pid] = LENGTH.unpack(os.read(read, LENGTH.size))
    os.close(read)
    return pid


def _be_rank(request: dict[str, Any], descriptors: list[int]) -> NoReturn:
    """Become what `python -m trainyard_trainer.rank` is, in the environment of the request."""
    go, *given = descriptors
    if not os.read(go, 1):
        os._exit(1)
    os.close(go)
    _place(given, request["numbers"])
    os.environ.clear()
    os.environ.update(request["environment"])
    sys.argv[1:] = []
    try:
        runpy.run_module(f"{__package__}.rank", run_name="__main__", alter_sys=True)
    except BaseException:
        traceback.print_exc()
    os._exit(1)


def _place(given: list[int], numbers: list[int]) -> None:
    """Give the descriptors these numbers."""
    above = 1 + max(*given, *numbers)
    aside = [fcntl.fcntl(each, fcntl.F_DUPFD_CLOEXEC, above) for each in given]
    for each in given:
        os.close(each)
    for each, number in zip(aside, numbers, strict=True):
        os.dup2(each, number)
        os.close(each)


if __name__ == "__main__":
    main()
