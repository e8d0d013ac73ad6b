"""What a trainer process says by the way it ends. Ranks, agents and pods use the same codes."""

from enum import IntEnum


class ExitCode(IntEnum):
    """Exit codes of ranks and agents. Any other code is a crash: the run recovers and counts a failure."""

    DONE = 0
    """The stage is done; its artifact is committed."""
    PERMANENT = 10
    """It would fail again the same way (bad data, wrong shape): the run fails and shows the message."""
    STOPPED = 20
    """Stopped on request (SIGTERM) with a checkpoint committed; never counts as done."""
    RETRY = 30
    """Something outside failed (a peer, the network, storage): recover, counted as a failure."""
