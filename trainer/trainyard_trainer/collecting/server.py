"""Serves the annotators' page until enough is judged, in a thread of its own: the caller's goes on telling how far it is.

The database decides all that matters, so a server that is killed and started again goes on where it was; a vote that was sent
to it meanwhile is sent again by the page, and counts once.
"""

import socket
import threading
import time
from collections.abc import Callable

import uvicorn
from sqlalchemy.exc import OperationalError

from ..errors import RetryableError
from .database import Database, Tally
from .settings import ServerSettings

_POLL_SECONDS = 0.5
_FAREWELL_SECONDS = 2.0
"""From the last vote until the server stops: its page, and those of others, then say that all is done."""
_PATIENCE_SECONDS = 120.0
"""With a database that can't be reached; pages say meanwhile that they try again."""


def serve(
    database: Database,
    settings: ServerSettings,
    key: bytes,
    port: int,
    *,
    host: str = "0.0.0.0",  # noqa: S104 - a pod's Service reaches no other
    stopping: Callable[[], bool] = lambda: False,
    tell: Callable[[Tally], None] = lambda tally: None,
    ready: Callable[[int], None] = lambda port: None,
) -> Tally:
    """Serve until all wanted judgements are made, or `stopping` says so; the tally then.

    `tell` hears the tally twice a second, `ready` the port once requests are taken (port 0 takes a free one).
    RetryableError if the port is taken or the database stays away.
    """
    from .application import application

    listening = _listen(host, port)
    config = uvicorn.Config(
        application(database, settings, key),
        log_level="warning",
        access_log=False,  # links are secrets, and stand in paths
        lifespan="off",
        ws="none",
        proxy_headers=False,
        server_header=False,
        timeout_graceful_shutdown=5,
        timeout_keep_alive=30,
        limit_concurrency=500,
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, name="page", daemon=True)
    thread.start()
    try:
        tally = _until_met(database, thread, stopping, tell, lambda: ready(listening.getsockname()[1]))
        if tally.met:
            thread.join(_FAREWELL_SECONDS)
        return tally
    finally:
        server.should_exit = True
        thread.join(10)
        listening.close()


def _until_met(
    database: Database,
    thread: threading.Thread,
    stopping: Callable[[], bool],
    tell: Callable[[Tally], None],
    ready: Callable[[], None],
) -> Tally:
    reached, told = time.monotonic(), False
    tally = Tally(0, 1)
    while thread.is_alive():
        try:
            tally = database.progress()
            reached = time.monotonic()
            tell(tally)
        except OperationalError as error:
            if time.monotonic() - reached > _PATIENCE_SECONDS:
                raise RetryableError(
                    f"the database of votes has been away for {_PATIENCE_SECONDS:.0f} s: {error.orig}"
                ) from None
        if not told:
            told = True
            ready()
        if tally.met or stopping():
            return tally
        thread.join(_POLL_SECONDS)
    raise RetryableError("the page's server ended by itself; the log above says why")


def _listen(host: str, port: int) -> socket.socket:
    try:
        listening = socket.create_server((host, port), backlog=200)
    except OSError as error:
        why = f"port {port}: can't be listened on ({error.strerror}); free it or choose another"
        raise RetryableError(why) from None
    # Connections inherit it. asyncio would set it on sockets of its own alone; without it an answer waits 40 ms for an ACK.
    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listening
