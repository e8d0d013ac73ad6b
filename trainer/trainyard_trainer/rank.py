"""One rank: `python -m trainyard_trainer.rank`, started by the agent, ends with the code that says how it went.

It always leaves through os._exit: with a peer dead, tearing down a process group, or a thread of a library, can hang
the interpreter's own exit.
"""

import ctypes
import faulthandler
import importlib
import os
import signal
import sys
import traceback
from typing import NoReturn

from trainyard_api.exit_codes import ExitCode
from trainyard_api.probe import UNWRITABLE, lasting, probe, remedy
from trainyard_api.protocol import Termination
from trainyard_api.storage import Storage

from . import stopping
from .artifacts import fetch_inputs, finished_artifact, sources_may_have_changed
from .errors import PermanentError, StopRequested, begin_stage, from_exception
from .group import Group
from .scratch import is_folder, make_scratch

CRASHED = 1
PR_SET_PDEATHSIG, PR_SET_NAME = 1, 15


def main() -> NoReturn:
    """Run the stage that the environment names."""
    faulthandler.enable()
    if stacks := os.environ.get("TRAINYARD_STACKS_FD"):
        faulthandler.register(signal.SIGUSR1, file=int(stacks))
    die_with_agent()
    group = Group.from_environment()
    ctypes.CDLL(None).prctl(PR_SET_NAME, f"rank-{group.rank}".encode())  # for whoever looks with top or ps
    stopping.leave_on_sigterm(lambda: leave(fail(group, StopRequested(stopping.NOTHING_TO_SAVE))))
    leave(run(group))


def leave(code: int) -> NoReturn:
    """End this process."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def run(group: Group) -> int:
    """Run the group's stage, report why it failed if it does, and return the exit code."""
    begin_stage(group.job.kind)
    try:
        make_output(group)
        if sources_may_have_changed(group) or not finished_artifact(group):
            fetch_inputs(group)
            stage = importlib.import_module(f".stages.{group.job.kind}", __package__)
            getattr(stage, group.job.kind)(group)
    except BaseException as error:  # anything at all must become an exit code and a reason
        return fail(group, StopRequested(stopping.NOTHING_TO_SAVE) if stopping.is_leaving() else error)
    return ExitCode.DONE


def make_output(group: Group) -> None:
    """The place that the stage works in, and the first thing written to storage, so that one of no use is found here."""
    if not is_folder(group.job.output_uri):
        make_scratch(group.output)
        if group.rank == 0:
            _probe(group.storage)
        return
    try:
        group.output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        if error.errno not in UNWRITABLE:
            raise
        remedy = f"name storage that the trainer's user ({os.geteuid()}) can write to"
        raise PermanentError(f"spec.storage.uri: {group.job.storage_uri}: {error}; {remedy}") from None


def _probe(storage: Storage) -> None:
    try:
        probe(storage)
    except OSError as error:
        if not lasting(error):
            raise
        raise PermanentError(f"spec.storage: {storage.uri} can't be used ({error.strerror}); {remedy(error)}") from None


def fail(group: Group, error: BaseException) -> int:
    """Tell user and agent why, and return the exit code."""
    known = from_exception(error)
    code = known.exit_code if known else CRASHED
    cause = known.cause if known else "Crashed"
    message = str(known) if known else traceback.format_exception_only(error)[-1].strip()
    if code == ExitCode.STOPPED:
        print(f"stopped: {message}", file=sys.stderr)
    else:
        traceback.print_exception(error)
    group.report(failure=Termination(exit_code=code, cause=cause, message=message, rank=group.rank))
    return code


def die_with_agent() -> None:
    """Have the kernel kill this process when its agent dies, however that dies: nobody else would."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    agent = os.environ.get("TRAINYARD_AGENT_PID")
    if agent and int(agent) != os.getppid():  # it died before the kernel knew
        os._exit(CRASHED)


if __name__ == "__main__":
    main()
