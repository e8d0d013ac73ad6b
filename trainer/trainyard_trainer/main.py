"""`trainyard-trainer`: what the container of a trainer pod runs."""

import argparse
import asyncio
import signal
import sys
from importlib.metadata import version

from trainyard_api.exit_codes import ExitCode


def main(arguments: list[str] | None = None) -> int:
    """Run the command that the arguments name."""
    parser = argparse.ArgumentParser(prog="trainyard-trainer", description="What runs in Trainyard's trainer pods.")
    parser.add_argument("--version", action="version", version=version("trainyard"))
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    commands.add_parser(
        "agent",
        help="process 1 of a pod: wait for an assignment, run its ranks, report",
        description="Settings come from the environment: TRAINYARD_TOKEN_FILE, TRAINYARD_BIND, TRAINYARD_MASTER_PORT, "
        "TRAINYARD_TERMINATION_LOG, TRAINYARD_GRACE_SECONDS, TRAINYARD_NAMESPACE, TRAINYARD_RUN, TRAINYARD_STAGE, "
        "TRAINYARD_KIND.",
    )
    discard = commands.add_parser("discard", help="delete all that a run has made")
    discard.add_argument("uri", help="file:///… or s3://…: the run's place in its storage")
    options = parser.parse_args(arguments)
    if options.command == "discard":
        from .discarding import discard as delete_all

        return delete_all(options.uri)

    # The kernel drops a SIGTERM that process 1 has no handler for, and the imports below take half a second.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(ExitCode.STOPPED))
    from .agent.environment import Environment
    from .agent.run import run

    return asyncio.run(run(Environment.read()))


if __name__ == "__main__":
    sys.exit(main())
