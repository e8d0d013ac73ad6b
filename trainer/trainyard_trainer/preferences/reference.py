"""What the reference thinks of every response: worked out once, by the model before its first step, and kept.

So no second model is in memory while the policy trains, and an attempt that resumes compares with the same numbers.
"""

import hashlib
import io
from collections.abc import Callable, Mapping

import numpy as np
from trainyard_api.checkpoint import Cursor

from ..data.objectives.objective import Objective, Sample
from ..data.objectives.preferences import PairRows
from ..engine import processes
from ..engine.engine import Engine
from ..errors import PermanentError
from ..group import Group
from .objective import PreferenceLoss


def compare_with_reference(
    rows: Mapping[str, PairRows],
    objective: Objective,
    engine: Engine,
    criterion: PreferenceLoss,
    cursor: Cursor,
    group: Group,
    micro_batch: int,
    tell: Callable[[], None],
    *,
    begins: bool,
) -> None:
    """Fill in `reference` of all rows, by name. A collective. `begins` says that the engine's model is the reference.

    PermanentError if it isn't, and what it thought is nowhere.
    """
    known = hashlib.sha256(cursor.model_dump_json().encode() + "".join(sorted(rows)).encode()).hexdigest()[:16]
    path = f"reference/{known}.npz"
    try:
        stored = np.load(io.BytesIO(group.storage.read(path)), allow_pickle=False)
    except FileNotFoundError:
        if not begins:
            raise PermanentError(
                f"{group.storage.uri}/{path}: missing, and training has begun; delete the stage's folder to begin again"
            ) from None
        for each in rows.values():
            each.reference = _measured(each, objective, engine, criterion, group, micro_batch, tell)
        if group.rank == 0:
            written = io.BytesIO()
            np.savez(written, **{name: each.reference for name, each in rows.items()})
            group.storage.write(path, written.getvalue())
        return
    for name, each in rows.items():
        each.reference = stored[name]


def _measured(
    rows: PairRows,
    objective: Objective,
    engine: Engine,
    criterion: PreferenceLoss,
    group: Group,
    micro_batch: int,
    tell: Callable[[], None],
) -> np.ndarray:
    """Log-probabilities of each pair's responses, (pairs, 2). Every rank runs equally many forwards."""
    mine: list[tuple[list[int], list[float]]] = []
    for start in range(0, len(rows), micro_batch * group.world_size):
        first = start + group.rank * micro_batch
        numbers = range(first, min(first + micro_batch, len(rows)))
        batch = objective.batch([Sample(rows, number, number) for number in numbers or range(1)])
        found, _ = engine.without_gradients(criterion.of_responses, batch)
        if numbers:
            mine.append(([pair for number in numbers for pair in rows.row(number)], found.tolist()))
        tell()
    reference = np.zeros_like(rows.reference)
    for of_rank in processes.gather(mine):
        for pairs, found in of_rank:
            reference[pairs] = np.asarray(found, dtype=np.float32).reshape(-1, 2)
    return reference
