"""`trainyard-trainer discard URI`: a pod that sees what a run has made deletes it, all of it."""

import sys

from trainyard_api.exit_codes import ExitCode
from trainyard_api.storage import open_storage


def discard(uri: str) -> int:
    """Delete all that is below `uri`, with what writers that were killed had begun to send."""
    try:
        made = open_storage(uri)
        made.remove("")
        made.tidy(lambda name: True)
    except (OSError, ValueError) as error:
        print(f"{uri}: {error}", file=sys.stderr)
        return ExitCode.RETRY
    print(f"{uri} is deleted")
    return ExitCode.DONE
