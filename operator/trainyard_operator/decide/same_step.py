"""Attempts that crash in the same step again and again train on the same sequences each time: it is the data, the numbers
or the settings, and the hardware only if all of it happened on one node. So one more attempt is made elsewhere first.
"""

from itertools import takewhile

from trainyard_api.status import ExcludedNode, Failure
from trainyard_api.training_stages import TrainingStage

from .causes import End
from .observation import Observation, last_progress
from .suspects import take_out

TIMES = 3


def same_step(seen: Observation, end: End, failures: tuple[Failure, ...]) -> ExcludedNode | str | None:
    """Why the run is to fail, or the node to try without before that; None unless the last failures are of one step."""
    *_, last = failures
    if not last.crashed or last.step is None:
        return None
    alike = list(takewhile(lambda each: _place(each) == _place(last), reversed(failures)))
    if len(alike) < TIMES:
        return None
    nodes = sorted({each.node for each in alike if each.node})
    where = f", on {' and '.join(nodes)}," if nodes else ""
    what = (
        f"step {last.step + 1} of stage {last.stage} has crashed {len(alike)} times{where} and no attempt got past it"
    )
    if len(nodes) == 1 and len(alike) == TIMES:
        why = f"{what}: one more attempt, elsewhere, tells whether it is the node"
        if excluded := take_out(seen, nodes[0], end.cause, why):
            return excluded
    sure = "not the hardware" if len(nodes) > 1 else "most likely not the hardware"
    return (
        f"{what}: it is the data, the numbers or the settings, {sure}; {_sequences(seen, last.step + 1)}"
        f"last: {end.message}; mend that, or let a rule of recovery.rules Restart it"
    )


def _place(failure: Failure) -> tuple[bool, str, int | None]:
    return failure.crashed, failure.stage, failure.step


def _sequences(seen: Observation, step: int) -> str:
    """Which sequences a step trains on: counted from a step whose place in the order of data is known."""
    progress, settings = last_progress(seen), seen.stage.settings
    if progress is None or progress.position is None or not isinstance(settings, TrainingStage):
        return ""
    first = progress.position + (step - progress.step) * settings.global_batch
    return f"sequences {first} to {first + settings.global_batch - 1} in the order of data are its batch; "
