"""Lists of all runs and pods: at the start, before a leader acts, and now and then, for watches may miss what happens."""

import asyncio
import logging
from collections.abc import Callable
from datetime import datetime

import aiohttp
from trainyard_api.names import KIND

from ..cluster.access import ApiError
from ..cluster.protocol import Cluster, GoneError
from .store import Store

PATIENCE_SECONDS = 120.0
"""How long the API server may be away, or our CRD missing, when the process starts."""
PAUSE_SECONDS = 2.0
RELIST_SECONDS = 300.0

log = logging.getLogger(__name__)


async def take_in(store: Store, cluster: Cluster, now: Callable[[], datetime]) -> int:
    """List everything once, and ask what the nodes can do. Returns how many objects the store had that are gone."""
    ghosts = 0
    for kind, lister in ((KIND, cluster.list_runs), ("Pod", cluster.list_pods)):
        began = now()
        ghosts += store.repair(await lister(), kind, began)
    store.restarts_in_place = await cluster.restarts_in_place()
    return ghosts


async def take_in_patiently(store: Store, cluster: Cluster, now: Callable[[], datetime]) -> None:
    """List everything once, waiting for an API server or CRD that isn't there yet."""
    deadline = asyncio.get_running_loop().time() + PATIENCE_SECONDS
    while True:
        try:
            await take_in(store, cluster, now)
            return
        except (aiohttp.ClientError, TimeoutError, ApiError, GoneError) as error:
            if asyncio.get_running_loop().time() > deadline:
                raise
            log.warning("cannot list yet", extra={"error": str(error) or type(error).__name__})
        await asyncio.sleep(PAUSE_SECONDS)


async def keep_listing(
    store: Store, cluster: Cluster, now: Callable[[], datetime], on_repair: Callable[[int], None]
) -> None:
    """List everything now and then, until cancelled."""
    while True:
        await asyncio.sleep(RELIST_SECONDS)
        try:
            on_repair(await take_in(store, cluster, now))
        except Exception:
            log.exception("re-list failed")
