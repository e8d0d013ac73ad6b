"""What an agent answers on port 9400. /healthz and /metrics are open; what shows or changes the run needs its token."""

import hmac

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from pydantic import ValidationError
from trainyard_api.model import explain_errors
from trainyard_api.protocol import Assignment, PeerState

from .refusing import refuse
from .snapshot_server import snapshot_routes
from .stacks import stacks_of
from .supervisor import Agent, RefusedError

OPEN = ("/healthz", "/metrics")
LONGEST_WAIT_SECONDS = 60.0


def application(agent: Agent, token: str, registry: CollectorRegistry) -> web.Application:
    """The agent's HTTP side."""

    async def healthz(request: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def metrics(request: web.Request) -> web.Response:
        return web.Response(body=generate_latest(registry), headers={"Content-Type": CONTENT_TYPE_LATEST})

    async def state(request: web.Request) -> web.Response:
        try:
            since = int(request.query["since"]) if "since" in request.query else None
            wait = min(max(0.0, float(request.query.get("wait", 0))), LONGEST_WAIT_SECONDS)
        except ValueError:
            return refuse(400, "since: a version, which is a whole number; wait: seconds, a number")
        return web.json_response((await agent.board.after(since, wait)).wire())

    async def assignment(request: web.Request) -> web.Response:
        try:
            agent.assign(Assignment.model_validate_json(await request.read()))
        except ValidationError as error:
            return refuse(400, *explain_errors(error))
        except RefusedError as error:
            return refuse(409, str(error))
        return web.json_response(agent.board.state.wire())

    async def peer(request: web.Request) -> web.Response:
        try:
            agent.hear_peer(PeerState.model_validate_json(await request.read()))
        except ValidationError as error:
            return refuse(400, *explain_errors(error))
        except RefusedError as error:
            return refuse(409, str(error))
        return web.json_response({})

    async def stacks(request: web.Request) -> web.Response:
        found = await stacks_of(agent.attempt.ranks if agent.attempt else [])
        return web.Response(text="\n".join(each.text for each in found))

    app = web.Application(middlewares=[_authorise(token)])
    app.add_routes(
        [
            web.get("/healthz", healthz),
            web.get("/metrics", metrics),
            web.get("/state", state),
            web.put("/assignment", assignment),
            web.put("/peer", peer),
            web.get("/stacks", stacks),
            *snapshot_routes(agent),
        ]
    )
    return app


def _authorise(token: str) -> Middleware:
    expected = f"Bearer {token}".encode()

    @web.middleware
    async def check(request: web.Request, handler: Handler) -> web.StreamResponse:
        given = request.headers.get("Authorization", "").encode(errors="surrogateescape")
        if request.path in OPEN or hmac.compare_digest(given, expected):
            return await handler(request)
        return refuse(401, "Authorization: needs `Bearer` and the token of this run")

    return check
