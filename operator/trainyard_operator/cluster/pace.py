"""How fast we may ask: a token bucket that all requests share, and that stands still when the server says so.

100 requests a second with bursts of 200 let a group of 1,000 pods be made in 10 s, and leave room for seven recoveries a
second of eleven requests each (at 50 they queued for seconds). That is a small part of what an API server of a small cluster
takes (client-go's default for controllers, 20 with bursts of 30, is older than priority and fairness, which protects the
server now). What a thousand runs have to say of their progress would take all of it and more, so that goes last, and
`progress_seconds` says how seldom each run may.
"""

import asyncio
from collections import deque
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

RATE = 100.0
BURST = 200
LONGEST_HOLD_SECONDS = 30.0
PROGRESS_SECONDS = 5.0
"""Between two writes of one run's progress, while runs are few."""
PROGRESS_SHARE = 0.25
"""Of the rate, for the progress of all runs together."""


class Pace:
    """A token bucket. `wait` returns when one more request may be sent; what is routine goes when nothing else waits."""

    def __init__(self, rate: float = RATE, burst: int = BURST) -> None:
        self._rate = rate
        self._slack = (burst - 1) / rate
        self._next = 0.0
        """The loop's time at which the bucket holds its next token."""
        self._urgent: deque[asyncio.Future[None]] = deque()
        self._routine: deque[asyncio.Future[None]] = deque()
        self._timer: asyncio.TimerHandle | None = None

    async def wait(self, *, routine: bool = False) -> None:
        """Return when the request may be sent: in the order of the calls, those that are routine after all others."""
        loop = asyncio.get_running_loop()
        turn = loop.create_future()
        (self._routine if routine else self._urgent).append(turn)
        if self._timer is None:
            self._serve(loop.time())
        await turn

    def hold(self, seconds: float) -> None:
        """Let nothing out for so long: the server is overloaded, for all of us."""
        self._next = max(self._next, asyncio.get_running_loop().time() + min(seconds, LONGEST_HOLD_SECONDS))

    def _serve(self, now: float) -> None:
        """Give out the tokens that there are; come again when there is one for who still waits."""
        self._next = max(self._next, now - self._slack)
        while waiting := self._urgent or self._routine:
            if waiting[0].done():  # its caller was cancelled
                waiting.popleft()
            elif self._next > now:
                self._timer = asyncio.get_running_loop().call_at(self._next, self._serve, self._next)
                return
            else:
                waiting.popleft().set_result(None)
                self._next += 1 / self._rate
        self._timer = None


def progress_seconds(runs: int) -> float:
    """Between two writes of one run's progress, if so many runs train: 5 s up to 125 of them, 40 s with 1,000."""
    return max(PROGRESS_SECONDS, runs / (RATE * PROGRESS_SHARE))


def retry_after(headers: Mapping[str, str], now: datetime | None = None) -> float | None:
    """The seconds that a `Retry-After` header asks for, given as a number or as a date; None without one."""
    value = headers.get("Retry-After", "").strip()
    if not value:
        return None
    if value.isdigit():
        return float(value)
    try:
        return max(0.0, (parsedate_to_datetime(value) - (now or datetime.now(UTC))).total_seconds())
    except ValueError:
        return None
