"""An agent tells agent 0 how its part of the attempt goes, so that the operator, which asks agent 0 alone, sees all.

Said on each change of phase, and again until agent 0 has taken it or the attempt is over: agent 0 may not have its
assignment yet, or its pod may be made anew while the others wait. What it has taken is repeated as a sign of life, and its
answer is one to us.
"""

import asyncio
import ssl

import aiohttp
from trainyard_api.names import AGENT_PORT
from trainyard_api.protocol import HEARTBEAT_SECONDS, PeerState

from .events import log
from .supervisor import Agent

CALL_SECONDS = 2.0
FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.1, 2.0
"""Before it is said again."""


async def tell_first(agent: Agent, token: str, trust: ssl.SSLContext | None) -> None:
    """Tell agent 0 of every change and that we live, until this agent's end has been told as well.

    With `trust`, HTTPS is spoken.
    """
    scheme, connector = ("https", aiohttp.TCPConnector(ssl=trust)) if trust else ("http", None)
    headers = {"Authorization": f"Bearer {token}"}
    loop = asyncio.get_running_loop()
    told: PeerState | None = None
    again = loop.time()
    pause = FIRST_PAUSE_SECONDS
    timeout = aiohttp.ClientTimeout(CALL_SECONDS)
    async with aiohttp.ClientSession(headers=headers, timeout=timeout, connector=connector) as session:
        while True:
            ending, version = agent.terminated.done(), agent.board.state.version
            news = _news(agent)
            if news and (news != told or (not ending and loop.time() >= again)):
                if await _put(session, f"{scheme}://{_first_address(agent)}:{AGENT_PORT}/peer", news):
                    agent.hearing.heard(0)
                    told, again, pause = news, loop.time() + HEARTBEAT_SECONDS, FIRST_PAUSE_SECONDS
                else:
                    await agent.board.after(version, pause)
                    pause = min(2 * pause, LONGEST_PAUSE_SECONDS)
            elif ending:
                return
            else:
                await agent.board.after(version, again - loop.time() if news else None)


def _news(agent: Agent) -> PeerState | None:
    """What there is to tell; nothing before an assignment, where agent 0 is ourselves, or where its address is not known."""
    place, state = agent.assignment, agent.board.state
    if place is None or place.worker == 0 or not place.addresses:
        return None
    return PeerState(
        worker=place.worker,
        attempt=state.attempt,
        phase=state.phase,
        termination=state.termination,
        hang=state.hang,
        paces=state.paces,
    )


def _first_address(agent: Agent) -> str:
    assert agent.assignment
    return agent.assignment.addresses[0]


async def _put(session: aiohttp.ClientSession, url: str, news: PeerState) -> bool:
    """Whether it need not be said again: agent 0 took it, or is at a newer attempt."""
    try:
        async with session.put(url, json=news.wire()) as answer:
            if answer.status not in (200, 409):
                log("peer_refused", url=url, status=answer.status, answer=(await answer.text())[:200])
            return answer.status in (200, 409)
    except (aiohttp.ClientError, TimeoutError):
        return False
