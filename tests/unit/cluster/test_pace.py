"""The token bucket that all requests to the API server share, and how long a server may ask us to wait."""

import asyncio
from datetime import UTC, datetime

import pytest
from trainyard_operator.cluster.pace import LONGEST_HOLD_SECONDS, Pace, progress_seconds, retry_after


async def seconds_for(pace: Pace, requests: int) -> float:
    loop = asyncio.get_running_loop()
    began = loop.time()
    await asyncio.gather(*(pace.wait() for _ in range(requests)))
    return loop.time() - began


async def test_a_burst_goes_out_at_once():
    assert await seconds_for(Pace(rate=1, burst=20), requests=20) < 0.1


async def test_what_exceeds_the_burst_goes_at_the_rate():
    assert 0.09 <= await seconds_for(Pace(rate=100, burst=10), requests=20) < 0.5


async def test_a_pause_fills_the_bucket_no_further_than_the_burst():
    pace = Pace(rate=200, burst=10)
    await seconds_for(pace, requests=10)
    await asyncio.sleep(0.1)
    assert await seconds_for(pace, requests=20) >= 0.04


async def test_nothing_goes_out_while_the_server_asks_to_wait():
    pace = Pace(rate=1000, burst=100)
    pace.hold(0.1)
    assert await seconds_for(pace, requests=1) >= 0.09


async def test_the_server_can_not_stop_us_for_long():
    pace = Pace()
    pace.hold(86_400)
    waiting = asyncio.create_task(pace.wait())
    await asyncio.sleep(0)
    asyncio.get_running_loop().call_soon(waiting.cancel)
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert pace._next <= asyncio.get_running_loop().time() + LONGEST_HOLD_SECONDS + 1


async def test_what_is_routine_goes_last_and_everything_else_in_its_order():
    pace, served = Pace(rate=500, burst=1), []

    async def ask(name: str, *, routine: bool) -> None:
        await pace.wait(routine=routine)
        served.append(name)

    await pace.wait()
    asked = {"progress 1": True, "create 1": False, "progress 2": True, "create 2": False}
    await asyncio.gather(*(ask(name, routine=routine) for name, routine in asked.items()))
    assert served == ["create 1", "create 2", "progress 1", "progress 2"]


async def test_who_no_longer_waits_holds_up_nobody():
    pace = Pace(rate=1000, burst=1)
    pace.hold(0.02)
    waiting = [asyncio.create_task(pace.wait(routine=routine)) for routine in (False, True, False, True)]
    await asyncio.sleep(0)
    for each in waiting[:2]:
        each.cancel()
    await asyncio.wait_for(asyncio.gather(*waiting[2:]), 5)


async def test_a_server_that_asks_to_wait_holds_back_those_who_wait_already():
    pace = Pace(rate=100, burst=1)
    await pace.wait()
    waiting = asyncio.create_task(seconds_for(pace, requests=1))
    await asyncio.sleep(0)
    pace.hold(0.1)
    assert await waiting >= 0.09


RUNS = {1: 5.0, 125: 5.0, 250: 10.0, 1000: 40.0}


@pytest.mark.parametrize(("runs", "seconds"), RUNS.items())
def test_the_progress_of_all_runs_takes_a_quarter_of_the_rate_at_most(runs: int, seconds: float):
    assert progress_seconds(runs) == seconds


NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
RETRY_AFTER = {
    "no header asks for nothing": ({}, None),
    "a number is seconds": ({"Retry-After": "7"}, 7.0),
    "a date is that moment": ({"Retry-After": "Thu, 01 Jan 2026 12:00:30 GMT"}, 30.0),
    "a date that has passed is now": ({"Retry-After": "Thu, 01 Jan 2026 11:00:00 GMT"}, 0.0),
    "what can't be read asks for nothing": ({"Retry-After": "soon"}, None),
}


@pytest.mark.parametrize(("headers", "expected"), RETRY_AFTER.values(), ids=RETRY_AFTER)
def test_retry_after(headers: dict[str, str], expected: float | None):
    assert retry_after(headers, NOON) == expected
