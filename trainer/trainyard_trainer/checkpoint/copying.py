"""Giving the next worker's agent a copy of a shard, on a thread of the writer process.

It goes on while storage commits, and holds up nothing: a copy that isn't through when the rank's next shard is written is
given up, for the save after that one overwrites what it is read from. Each piece is taken out of the slot before asking
whether it is given up, so whatever was sent to its end was whole.
"""

import http.client
import sys
from threading import Event, Thread
from urllib.parse import urlsplit

from ..credentials import token, trust

_PIECE_BYTES = 1024 * 1024
_SECONDS = 10.0
"""For a connection, for a piece, and for the answer."""


class Copy:
    """One copy, under way from the moment it is made."""

    def __init__(self, shard: memoryview, url: str, sha256: str) -> None:
        """The agent checks the digest; "" if it isn't known, for storage has failed."""
        self._shard, self._url, self._sha256 = shard, url, sha256
        self._over, self._through = Event(), False
        Thread(target=self._run, daemon=True).start()

    def finish(self) -> bool:
        """Give it up, unless it is through; whether it was."""
        self._over.set()
        return self._through

    def _run(self) -> None:
        try:
            self._through = self._send()
        except (OSError, http.client.HTTPException) as error:
            print(f"no copy of this shard: {self._url}: {error}", file=sys.stderr, flush=True)

    def _send(self) -> bool:
        to = urlsplit(self._url)
        assert to.hostname
        connection = (
            http.client.HTTPSConnection(to.hostname, to.port, timeout=_SECONDS, context=trust())
            if to.scheme == "https"
            else http.client.HTTPConnection(to.hostname, to.port, timeout=_SECONDS)
        )
        try:
            connection.putrequest("PUT", f"{to.path}?{to.query}")
            connection.putheader("Authorization", f"Bearer {token()}")
            connection.putheader("Content-Length", str(len(self._shard)))
            if self._sha256:
                connection.putheader("X-Trainyard-SHA256", self._sha256)
            connection.endheaders()
            for start in range(0, len(self._shard), _PIECE_BYTES):
                piece = bytes(self._shard[start : start + _PIECE_BYTES])
                if self._over.is_set():
                    return False
                connection.send(piece)
            answer = connection.getresponse()
            if answer.status >= http.client.BAD_REQUEST:
                raise http.client.HTTPException(f"{answer.status} {answer.read().decode(errors='replace')}")
            return True
        finally:
            connection.close()
