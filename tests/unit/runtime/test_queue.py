"""The work queue keeps every change, hands a key to one worker at a time, and waits longer with each failure."""

import asyncio

from trainyard_operator.runtime.queue import FIRST_RETRY_SECONDS, LONGEST_RETRY_SECONDS, WorkQueue

A, B = ("team", "a"), ("team", "b")


async def get(queue: WorkQueue) -> tuple[str, str]:
    return await asyncio.wait_for(queue.get(), 5)


async def test_a_key_added_twice_is_handed_out_once() -> None:
    queue = WorkQueue()
    for key in (A, B, A):
        queue.add(key)
    assert [await get(queue), await get(queue)] == [A, B]
    assert len(queue) == 0


async def test_a_key_added_while_in_hand_comes_again_and_not_before() -> None:
    queue = WorkQueue()
    queue.add(A)
    assert await get(queue) == A
    queue.add(A)
    assert len(queue) == 0
    queue.done(A)
    assert await get(queue) == A


async def test_of_two_delays_the_earlier_holds() -> None:
    queue = WorkQueue()
    queue.add_after(A, 3600)
    queue.add_after(A, 0.01)
    queue.add_after(A, 7200)
    assert await get(queue) == A


async def test_waits_grow_to_a_bound_and_start_anew_after_a_success() -> None:
    queue = WorkQueue(jitter=lambda: 1.0)
    waits = [queue.retry(A) for _ in range(20)]
    assert waits[:3] == [FIRST_RETRY_SECONDS, FIRST_RETRY_SECONDS * 2, FIRST_RETRY_SECONDS * 4]
    assert waits[-1] == LONGEST_RETRY_SECONDS
    queue.succeeded(A)
    assert queue.retry(A) == FIRST_RETRY_SECONDS


async def test_a_change_does_not_wait_for_a_retry() -> None:
    queue = WorkQueue()
    for _ in range(20):
        queue.retry(A)
    queue.add(A)
    assert await get(queue) == A
