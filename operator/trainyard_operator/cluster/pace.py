"""How fast we may ask: a token bucket that all requests share, and that stands still when the server says so.

50 requests a second with bursts of 100 let a group of 1,000 pods be made in 20 s and are a small part of what an API
server of a small cluster takes (client-go's default for controllers, 20 with bursts of 30, is older than
priority and fairness, which protects the server now).
"""

import asyncio
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

RATE = 50.0
BURST = 100
LONGEST_HOLD_SECONDS = 30.0


class Pace:
    """A token bucket. `wait` returns when one more request may be sent; waiting callers go in their order."""

    def __init__(self, rate: float = RATE, burst: int = BURST) -> None:
        self._rate = rate
        self._slack = (burst - 1) / rate
        self._next = 0.0
        """The loop's time at which the bucket would hold nothing but the next request's token, had nobody waited."""

    async def wait(self) -> None:
        """Return when the next request may be sent."""
        now = asyncio.get_running_loop().time()
        self._next = max(self._next, now - self._slack)
        turn, self._next = self._next, self._next + 1 / self._rate
        if turn > now:
            await asyncio.sleep(turn - now)

    def hold(self, seconds: float) -> None:
        """Let nothing out for so long: the server is overloaded, for all of us."""
        self._next = max(self._next, asyncio.get_running_loop().time() + min(seconds, LONGEST_HOLD_SECONDS))


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
