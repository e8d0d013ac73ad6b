"""kopf watches runs and their pods and puts them in the store; that is all it does here.

Only `on.event` handlers: other kinds patch the objects they handle, and `@kopf.index` takes a minute to start with 4,000
pods. kopf never retries such a handler, which is why a handler only stores; and never notices what was deleted while a watch
was down, which is why the loop lists everything again now and then. Errors of a watch that kopf can't get over end `watch`,
and with it the process.
"""

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Any

import kopf
from trainyard_api.names import API_VERSION, GROUP, LABEL_RUN, PLURAL, VERSION

from ..cluster.access import Access, AccessError
from ..cluster.kubernetes import slim_run
from .store import Store

WATCH_SECONDS = 120
"""After so long a watch is opened anew: the sign of life that `watch_age` counts from (kopf hides bookmarks)."""
CONNECT_SECONDS = 15
STOP_SECONDS = 5.0
LOGIN_PAUSE_SECONDS = 60.0

log = logging.getLogger(__name__)


class WatchEndedError(Exception):
    """kopf has given up."""


def watched_paths(namespaces: tuple[str, ...]) -> tuple[str, ...]:
    """The URL paths of the watches that there must be; none of the namespaces means all of them."""
    folders = [f"/namespaces/{namespace}" for namespace in namespaces] or [""]
    return tuple(
        f"{root}{folder}/{plural}"
        for root, plural in ((f"/apis/{API_VERSION}", PLURAL), ("/api/v1", "pods"))
        for folder in folders
    )


async def watch(store: Store, access: Access, namespaces: tuple[str, ...], started: Callable[[], None]) -> None:
    """Keep the store up to date until cancelled. Raises WatchEndedError if that has become impossible.

    kopf takes over the process's signal handlers while it starts; `started` is called right after, to take them back.
    """
    refused = asyncio.Event()
    tasks = await kopf.spawn_tasks(
        registry=_handlers(store, access, refused),
        settings=_settings(),
        clusterwide=not namespaces,
        namespaces=namespaces,
        standalone=True,
    )
    started()
    tasks = [*tasks, asyncio.create_task(_fail_when(refused), name="login")]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        ended = done.pop()
        cause = None if ended.cancelled() else ended.exception()
        raise WatchEndedError(f"kopf's {ended.get_name()} has ended: {cause or 'without an error'}") from cause
    finally:
        for task in tasks:
            task.cancel()
        stopped, _ = await asyncio.wait(tasks, timeout=STOP_SECONDS)
        for task in stopped:
            if not task.cancelled() and task.exception():
                log.debug("kopf's task ended", extra={"task": task.get_name(), "error": str(task.exception())})


async def _fail_when(refused: asyncio.Event) -> None:
    """kopf would wait for other credentials for ever."""
    await refused.wait()
    raise AccessError("the API server refuses our credentials; see whether the service account still exists")


def _handlers(store: Store, access: Access, refused: asyncio.Event) -> kopf.OperatorRegistry:
    registry = kopf.OperatorRegistry()
    last_login = float("-inf")

    @kopf.on.login(registry=registry, retries=1)
    async def open_session(**_: Any) -> kopf.AiohttpSession:
        """Called at the start, and again if a session has broken or is refused: twice in a row, and it is hopeless."""
        nonlocal last_login
        if time.monotonic() - last_login < LOGIN_PAUSE_SECONDS:
            refused.set()
            raise kopf.PermanentError("the session that was opened a moment ago is refused")
        last_login = time.monotonic()
        return kopf.AiohttpSession(server=access.server, aiohttp_session=access.session())

    @kopf.on.event(GROUP, VERSION, PLURAL, registry=registry)
    @kopf.on.event("", "v1", "pods", registry=registry)
    async def seen(event: kopf.RawEvent, **_: Any) -> None:
        manifest = dict(event["object"])
        if event["type"] == "DELETED":
            store.remove(manifest)
        else:
            store.put(slim_run(manifest))

    return registry


def _settings() -> kopf.OperatorSettings:
    settings = kopf.OperatorSettings()
    settings.watching.server_timeout = WATCH_SECONDS
    settings.watching.client_timeout = WATCH_SECONDS + 10
    settings.watching.connect_timeout = CONNECT_SECONDS
    settings.watching.chunk_size = 500
    settings.watching.label_selectors["", "v1", "pods"] = LABEL_RUN
    settings.networking.request_timeout = 30
    settings.networking.enforce_retry_after = True
    settings.scanning.disabled = True  # needs no right to watch CRDs and namespaces
    settings.posting.enabled = False
    settings.posting.loggers = False
    settings.process.ultimate_exiting_timeout = 30
    return settings
