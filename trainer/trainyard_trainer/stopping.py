"""How SIGTERM ends a rank.

With nothing to save it leaves at once, whatever it is doing: joining the others, reading a checkpoint, preparing data,
evaluating. Python's own handlers wait for the main thread, which a collective may hold up for minutes, so the byte that
the handler in C writes to a pipe is read by a thread. Peers that were not told find a closed connection.

From `hold_back` to `let_go` there is something to save. Then the request is only noted: the stage asks for it at moments when
ranks can agree, and all leave together.
"""

import os
import signal
import threading
from collections.abc import Callable
from typing import NoReturn

from .errors import StopRequested

NOTHING_TO_SAVE = "nothing was left to save"

_requested = threading.Event()
_held_back = threading.Event()


def leave_on_sigterm(leave: Callable[[], NoReturn]) -> None:
    """From now on SIGTERM has `leave` called, on a thread of its own, unless there is something to save."""
    read_end, write_end = os.pipe()
    os.set_blocking(write_end, False)
    signal.signal(signal.SIGTERM, lambda *_: _requested.set())
    signal.set_wakeup_fd(write_end, warn_on_full_buffer=False)
    threading.Thread(target=_watch, args=(read_end, leave), name="stopping", daemon=True).start()


def requested() -> bool:
    """Whether SIGTERM has arrived in this process."""
    return _requested.is_set()


def request() -> None:
    """As if SIGTERM had arrived: another process of the group was asked to stop, and can't say so in a collective."""
    _requested.set()


def hold_back() -> None:
    """From now on there is something to save."""
    _held_back.set()


def let_go() -> None:
    """From now on there is nothing to save. Raises StopRequested if that was waited for."""
    _held_back.clear()
    if is_leaving():
        raise StopRequested(NOTHING_TO_SAVE)


def is_leaving() -> bool:
    """Whether a request ends this process now, so that whatever else goes wrong meanwhile is of no interest."""
    return _requested.is_set() and not _held_back.is_set()


def _watch(read_end: int, leave: Callable[[], NoReturn]) -> None:
    while signal.SIGTERM in os.read(read_end, 64):
        _requested.set()
        if is_leaving():
            leave()
