"""A rank that has said nothing for too long hangs: the stacks of all ranks are taken, stored, and told.

The clock is the rank's own and begins with its process, so with each attempt. Ranks of one group wait for one another, so
where one hangs all go silent within a step, and every agent sees it by itself; the operator hears of it through agent 0.
Ranks are left as they are: the next assignment ends them.
"""

import asyncio
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from trainyard_api.names import stacks_path
from trainyard_api.protocol import Hang, Job
from trainyard_api.storage import open_storage

from .attempt import Attempt
from .events import log
from .rank_process import RankProcess
from .stacks import Stack, places, stacks_of
from .supervisor import Agent

LOOK_SECONDS = 0.5
STORE_SECONDS = 10.0
"""For storage to take the stacks. It may be what ranks hang on, so nothing waits for longer."""


async def watch_ranks(agent: Agent) -> None:
    """Tell of every attempt whose ranks hang, until this agent is cancelled."""
    told = 0
    while True:
        await asyncio.sleep(LOOK_SECONDS)
        attempt, place = agent.attempt, agent.assignment
        if not attempt or not place or attempt.number != place.attempt or told == attempt.number or agent.stopping:
            continue
        silent = silent_ranks(attempt, place.job, asyncio.get_running_loop().time())
        if silent or any(peer.hang for peer in agent.board.state.peers):
            told = attempt.number
            hang = await _hang(attempt, place.job, silent)
            if attempt.running and agent.assignment and agent.assignment.attempt == attempt.number:
                agent.board.publish(hang=hang)


def silent_ranks(attempt: Attempt, job: Job, now: float) -> list[RankProcess]:
    """Ranks that have been silent for longer than what they are at may take."""
    longest = max(job.hang_seconds, job.start_seconds)
    return [
        rank
        for rank in attempt.ranks
        if rank.exit_code is None
        and now - rank.heard >= (job.hang_seconds if rank.beat.activity == "working" else longest)
    ]


async def _hang(attempt: Attempt, job: Job, silent: list[RankProcess]) -> Hang:
    silence = max((asyncio.get_running_loop().time() - rank.heard for rank in silent), default=0.0)
    since = datetime.now(UTC) - timedelta(seconds=silence)
    stacks = await stacks_of(attempt.ranks)
    found = places(stacks)
    for each in found:
        ranks = ",".join(map(str, each.ranks))
        log("hang", attempt=attempt.number, ranks=ranks, state=each.state, where=each.where)
    return Hang(
        silent=[rank.rank for rank in silent],
        since=since.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        places=found,
        stacks=await _stored(job, attempt.number, stacks),
    )


async def _stored(job: Job, attempt: int, stacks: list[Stack]) -> str:
    """The URI of the folder that has them now; nothing if storage hasn't taken them in time."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[str] = loop.create_future()

    def store() -> None:
        try:
            folder = open_storage(job.output_uri).at(stacks_path(attempt))
            for each in stacks:
                folder.write(f"rank-{each.rank}.txt", each.text.encode())
            _call(loop, lambda: done.cancelled() or done.set_result(folder.uri))
        except (OSError, ValueError) as error:
            log("stacks_not_stored", reason=str(error))
            _call(loop, lambda: done.cancelled() or done.set_result(""))

    threading.Thread(target=store, name="stacks", daemon=True).start()
    try:
        return await asyncio.wait_for(done, STORE_SECONDS)
    except TimeoutError:
        log("stacks_not_stored", reason=f"storage did not take them within {STORE_SECONDS:.0f} s")
        return ""


def _call(loop: asyncio.AbstractEventLoop, function: Callable[[], object]) -> None:
    if not loop.is_closed():
        loop.call_soon_threadsafe(function)
