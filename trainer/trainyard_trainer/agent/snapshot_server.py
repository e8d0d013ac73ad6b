"""The agent's HTTP side for snapshots: PUT gives it a copy of another worker's, GET reads one that it holds,
or a range of its bytes.

    /snapshots/RANK?step=STEP&attempt=ATTEMPT    ATTEMPT is that of the asker; an older one than ours gets 409

Bodies go in pieces, and never through more memory than one. An answer that can't go on is cut off short of its length.
"""

from aiohttp import web

from .events import log
from .refusing import refuse
from .snapshots import PIECE_BYTES, NoRoomError, TornError
from .supervisor import Agent, RefusedError


def snapshot_routes(agent: Agent) -> list[web.RouteDef]:
    """What `application` serves of snapshots."""

    async def put(request: web.Request) -> web.Response:
        size = request.content_length
        if not size:
            return refuse(411, "Content-Length: required, the bytes of the snapshot")
        try:
            rank, step, attempt = _named(request)
            agent.refuse_older(attempt)
            copy = await agent.snapshots.receive(
                rank,
                step,
                attempt,
                size,
                request.content.iter_chunked(PIECE_BYTES),
                budget=agent.memory_budget,
                sha256=request.headers.get("X-Trainyard-SHA256", ""),
            )
            agent.keep(copy)
        except ValueError as error:
            return refuse(400, str(error))
        except RefusedError as error:
            return refuse(409, str(error))
        except (TornError, ConnectionError) as error:
            return refuse(422, str(error))
        except NoRoomError as error:
            return refuse(507, str(error))
        return web.json_response({})

    async def get(request: web.Request) -> web.StreamResponse:
        try:
            rank, step, attempt = _named(request)
            part = request.http_range
            agent.refuse_older(attempt)
        except ValueError as error:
            return refuse(400, str(error))
        except RefusedError as error:
            return refuse(409, str(error))
        held = agent.snapshots.newest(rank, step)
        if not held:
            return refuse(404, f"no whole snapshot of rank {rank} at step {step} is here")
        wanted = range(held.bytes)[part]
        answer = web.StreamResponse(status=200 if len(wanted) == held.bytes else 206)
        answer.content_type = "application/octet-stream"
        answer.content_length = len(wanted)
        if answer.status == 206:
            answer.headers["Content-Range"] = f"bytes {wanted.start}-{wanted.stop - 1}/{held.bytes}"
        await answer.prepare(request)
        try:
            for piece in agent.snapshots.read(held, wanted, agent.hear_ranks):
                await answer.write(piece)
        except TornError as error:
            log("snapshot_cut_off", rank=rank, step=step, reason=str(error))
            assert request.transport
            request.transport.abort()
        return answer

    return [web.put("/snapshots/{rank}", put), web.get("/snapshots/{rank}", get)]


def _named(request: web.Request) -> tuple[int, int, int]:
    """Rank, step and attempt in the request. Raises ValueError."""
    given = {"rank": request.match_info["rank"], **request.query}
    for name in ("rank", "step", "attempt"):
        if not given.get(name, "").isascii() or not given.get(name, "").isdigit():
            raise ValueError(f"{name}: required, a whole number")
    return int(given["rank"]), int(given["step"]), int(given["attempt"])
