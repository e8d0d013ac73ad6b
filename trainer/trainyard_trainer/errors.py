"""How a stage says why it can't go on. The class decides the exit code, and with it what the operator does next.

A stage raises one of these where it knows; `from_exception` sorts what others raise: torch.distributed and gloo when a
peer is gone, the operating system when storage fails. What nobody knows is a crash.
"""

import errno
from typing import ClassVar

from trainyard_api.exit_codes import ExitCode
from trainyard_api.probe import remedy

_kind = "pretrain"


def begin_stage(kind: str) -> None:
    """Say whose settings this process has."""
    global _kind
    _kind = kind


def setting(path: str) -> str:
    """`pretrain.optimizer.beta1`: a field of the stage that runs, as its user knows it."""
    return f"{_kind}.{path}"


class StageError(Exception):
    """Ends a stage on purpose. `str(error)` is for the user: what, where, what to do."""

    exit_code: ClassVar[ExitCode]
    cause: ClassVar[str]
    """As in `protocol.Termination`."""


class PermanentError(StageError):
    """Would fail again the same way; str(e) names what, where, what to do."""

    exit_code = ExitCode.PERMANENT
    cause = "PermanentError"


class RetryableError(StageError):
    """Something outside failed, most likely storage: trying again may help."""

    exit_code = ExitCode.RETRY
    cause = "StorageError"


class PreflightError(RetryableError):
    """This machine is not fit; others of the group are."""

    cause = "PreflightFailed"


class PeerLostError(RetryableError):
    """Another rank is gone, or can't be reached."""

    cause = "PeerLost"


class RolledBackError(RetryableError):
    """Training goes back to an older checkpoint, which the next attempt begins with."""

    cause = "RolledBack"


class StopRequested(StageError):  # noqa: N818 - it is none
    """A stop was asked for, and all that must be saved is."""

    exit_code = ExitCode.STOPPED
    cause = "Stopped"


STORAGE_ERRORS = frozenset(
    {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.ENOTCONN, errno.EHOSTDOWN}
)
"""What a full, failed or absent file system says. A missing file or a wrong path is none of these."""

GLOO_LOSSES = ("gloo", "Connection closed by peer", "Connection reset by peer", "Connection refused", "Broken pipe")
"""In the text of a RuntimeError: gloo raises nothing more specific (torch 2.6 to 2.13)."""


def from_exception(error: BaseException) -> StageError | None:
    """The error as one of ours, or None for a crash."""
    if isinstance(error, StageError):
        return error
    if isinstance(error, ConnectionError) or _is_lost_peer(error):
        return PeerLostError(f"lost another rank: {_first_line(error)}")
    if isinstance(error, PermissionError) and "://" in str(error.filename):
        return PermanentError(f"spec.storage: {error.filename} ({error.strerror}); {remedy(error)}")
    if isinstance(error, PermissionError):
        return PermanentError(f"{error.filename}: permission denied; let the trainer's user read and write it")
    if isinstance(error, OSError) and error.errno in STORAGE_ERRORS:
        return RetryableError(f"storage failed: {error}")
    return None


def _is_lost_peer(error: BaseException) -> bool:
    # By name, so that nothing here imports torch; DistError is the parent of all that torch.distributed raises.
    if any(each.__name__ == "DistError" for each in type(error).__mro__):
        return True
    return isinstance(error, RuntimeError) and any(text in str(error) for text in GLOO_LOSSES)


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)
