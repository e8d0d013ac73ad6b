"""Waiting on a condition, with a deadline: what tests do instead of sleeping."""

import asyncio
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


async def until(condition: Callable[[], object], what: str, seconds: float = 20) -> None:
    """Return once `condition` holds; fail, saying `what` did not happen, after so many seconds."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"{what}: not within {seconds} s"
        await asyncio.sleep(0.02)


def eventually(look: Callable[[], T], seconds: float, what: str, detail: Callable[[], str] = str) -> T:
    """Return the first truthy result of `look`; fail, saying `what` did not happen and `detail`, after so many seconds."""
    deadline = time.monotonic() + seconds
    while not (found := look()):
        assert time.monotonic() < deadline, f"{what}: not within {seconds} s; {detail()}"
        time.sleep(0.2)
    return found
