"""What a replica does from the moment that it is elected: it lists everything once more, for the one before has written to the
last, looks at every run, and goes on until it is no longer the leader, which is an error.
"""

from collections.abc import Callable
from datetime import datetime

from ..cluster.protocol import Cluster
from .lease import Leadership
from .listing import take_in_patiently
from .loop import Loop
from .queue import WorkQueue
from .reconcile import Reconciler
from .store import Store


async def lead(
    leadership: Leadership,
    store: Store,
    cluster: Cluster,
    queue: WorkQueue,
    reconciler: Callable[[], Reconciler],
    now: Callable[[], datetime],
    on_pass: Callable[[str, float], None] = lambda result, seconds: None,
) -> None:
    """Wait to be elected, then act. `reconciler` is made then: its clocks of silence begin with it."""
    async with leadership.held():
        await take_in_patiently(store, cluster, now)
        loop = Loop(queue, reconciler(), on_pass)
        store.wake_all()
        await loop.run()
