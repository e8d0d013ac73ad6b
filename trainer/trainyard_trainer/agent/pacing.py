"""Every few seconds an agent tells how fast its ranks are by themselves; agent 0, which hears it of all, names stragglers."""

import asyncio

from trainyard_api.protocol import Pace

from .events import log
from .stragglers import by_rank, persistent, stragglers
from .supervisor import Agent

SECONDS = 5.0
"""Between two looks: paces are medians over many steps, and a group has a thousand agents that tell one."""


async def watch_paces(agent: Agent) -> None:
    """Show paces and stragglers of the current attempt, until this agent is cancelled."""
    while True:
        await asyncio.sleep(SECONDS)
        attempt, place, state = agent.attempt, agent.assignment, agent.board.state
        if not attempt or not place or attempt.number != place.attempt or not attempt.running:
            continue
        own = {rank.rank: pace for rank in attempt.ranks if (pace := persistent([*rank.paces])) is not None}
        paces = [Pace(rank=rank, seconds=seconds) for rank, seconds in own.items()]
        of_all = by_rank(paces, *(peer.paces for peer in state.peers))
        known = [each.rank for each in state.stragglers]
        slow = stragglers(of_all, known) if len(of_all) == place.world_size else state.stragglers
        if [each.rank for each in slow] != known:
            log("stragglers", ranks=",".join(str(each.rank) for each in slow))
        if (paces, slow) != (state.paces, state.stragglers):
            agent.board.publish(paces=paces, stragglers=slow)
