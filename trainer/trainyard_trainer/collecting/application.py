"""What the page's server answers, whom, and how often.

Who asks is told by the cookie that a personal link sets, or by the header of a proxy that has authenticated them. Whatever
changes something is a POST with the form's token. The operator's side (`/manage/…`) needs a bearer token that follows from the
same key as the links. No address of the page begins with a slash, so it can be served below any path.
"""

import ipaddress
import json
from hmac import compare_digest
from urllib.parse import parse_qs

from fastapi import FastAPI, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import (
    HTMLResponse,
    JSONResponse,
    PlainTextResponse,
    RedirectResponse,
    Response,
    StreamingResponse,
)
from sqlalchemy.exc import OperationalError
from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from trainyard_api.links import Claims, LinkError, form_token, manager_token, verify

from . import pages, voting
from .agreement import report
from .database import Database
from .export import raw_votes
from .rate_limits import RateLimit
from .settings import ServerSettings
from .voting import RefusedError, Vote

COOKIE = "trainyard"
MAX_BODY = 64 * 2**10
_BIGGEST_ID = 2**31 - 1
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    "Cache-Control": "no-store",
}


class _Headers:
    """Adds _HEADERS to every answer that doesn't say otherwise."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                answer = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    answer.setdefault(name, value)
            await send(message)

        await self._app(scope, receive, with_headers)


class _NobodyError(Exception):
    """Nobody is let in; str(e) says why."""


class _TooOftenError(Exception):
    def __init__(self, seconds: float) -> None:
        super().__init__(f"That was faster than anybody reads. Please wait {max(1, round(seconds))} s.")
        self.seconds = seconds


class _BadFormError(Exception):
    """A form that the page never sends."""


def application(database: Database, settings: ServerSettings, key: bytes) -> FastAPI:
    """The page's server."""
    app = FastAPI(title=settings.title, docs_url=None, redoc_url=None, openapi_url=None)
    networks = tuple(ipaddress.ip_network(each) for each in settings.proxies)
    posts, reads = RateLimit(settings.votes_per_minute), RateLimit(3 * settings.votes_per_minute)
    strangers = RateLimit(30)
    digest = pages.guidelines_digest(settings)

    def who(request: Request) -> Claims:
        """The annotator who asks."""
        if settings.oidc_header and (named := request.headers.get(settings.oidc_header, "").strip()):
            address = ipaddress.ip_address(request.client.host) if request.client else None
            if address is None or not any(address in network for network in networks):
                raise _NobodyError("This page is reached through its proxy alone.")
            claims = Claims(named[:100], float("inf"), float("inf"))
        else:
            token = request.cookies.get(COOKIE, "")
            if not token:
                raise _NobodyError("Please open the personal link that you were given.")
            claims = verify(key, token)
        voting.admit(database, claims)
        return claims

    def counted(limit: RateLimit, annotator: str) -> None:
        if seconds := limit.wait(annotator):
            raise _TooOftenError(seconds)

    def shown(annotator: str, said: str = "", status: int = 200) -> Response:
        seen = voting.view(database, annotator, settings.lease_seconds)
        page = pages.task_page(seen, settings, annotator, form_token(key, annotator), said)
        return HTMLResponse(page, status_code=status)

    @app.get("/healthz")
    async def healthz() -> Response:
        return PlainTextResponse("ok\n")

    @app.get("/static/{name}")
    async def static(name: str) -> Response:
        if name not in pages.STATIC:
            return PlainTextResponse("no such file\n", 404)
        kept = {"Cache-Control": "public, max-age=31536000, immutable"}
        return Response(pages.static_file(name), media_type=pages.STATIC[name], headers=kept)

    @app.get("/enter/{token}")
    def enter(request: Request, token: str) -> Response:
        claims = verify(key, token)
        voting.admit(database, claims)
        answer = RedirectResponse("../", 303)
        answer.set_cookie(COOKIE, token, path=_root(request), httponly=True, samesite="lax", secure=settings.https)
        return answer

    @app.get("/")
    def page(request: Request) -> Response:
        claims = who(request)
        counted(reads, claims.annotator)
        return shown(claims.annotator)

    @app.get("/task")
    def task(request: Request) -> Response:
        """The same for a scripted rater."""
        claims = who(request)
        counted(reads, claims.annotator)
        return JSONResponse(_told(voting.view(database, claims.annotator, settings.lease_seconds), claims.annotator))

    def _told(seen: voting.View, annotator: str) -> dict[str, object]:
        told: dict[str, object] = {
            "form": form_token(key, annotator),
            "done": seen.tally.done,
            "wanted": seen.tally.wanted,
            "closed": seen.closed,
        }
        if seen.shown:
            item = seen.shown.item
            told["task"] = {
                "task": seen.shown.task,
                "showing": seen.shown.showing,
                "prompt": [turn.model_dump() for turn in item.turns],
                "responses": [item.responses[position].text for position in seen.shown.order],
            }
        return told

    @app.post("/vote")
    async def vote(request: Request) -> Response:
        fields = await _fields(request)

        def take() -> Response:
            annotator = allowed(request, fields)
            try:
                voting.vote(database, annotator, _vote(fields, digest))
            except RefusedError as error:
                return refused(request, annotator, str(error))
            return saved(request)

        return await run_in_threadpool(take)

    @app.post("/undo")
    async def undo(request: Request) -> Response:
        fields = await _fields(request)

        def take_back() -> Response:
            annotator = allowed(request, fields)
            try:
                voting.undo(database, annotator, settings.lease_seconds)
            except RefusedError as error:
                return refused(request, annotator, str(error))
            return saved(request)

        return await run_in_threadpool(take_back)

    def allowed(request: Request, fields: dict[str, str]) -> str:
        """The annotator who sends a form of ours."""
        annotator = who(request).annotator
        if request.headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none") or not compare_digest(
            fields.get("form", "").encode(), form_token(key, annotator).encode()
        ):
            raise _BadFormError("This form did not come from the page. Please load it again.")
        counted(posts, annotator)
        return annotator

    def saved(request: Request) -> Response:
        return JSONResponse({"saved": True}) if _wants_json(request) else RedirectResponse("./", 303)

    def refused(request: Request, annotator: str, why: str) -> Response:
        return JSONResponse({"error": why}, 409) if _wants_json(request) else shown(annotator, why, 409)

    @app.get("/manage/status")
    def status(request: Request) -> Response:
        managing(request)
        tally = database.progress()
        return JSONResponse({"done": tally.done, "wanted": tally.wanted, "report": report(database)})

    @app.get("/manage/votes")
    def log(request: Request) -> Response:
        managing(request)
        lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in raw_votes(database))
        return StreamingResponse(lines, media_type="application/jsonl")

    @app.post("/manage/revoke")
    async def revoke(request: Request) -> Response:
        managing(request)
        name = (await _fields(request)).get("annotator", "")
        if not name:
            raise _BadFormError("annotator: name whose links are to be void")
        await run_in_threadpool(database.revoke, name)
        return JSONResponse({"revoked": name})

    def managing(request: Request) -> None:
        given = request.headers.get("authorization", "").encode(errors="surrogateescape")
        if not compare_digest(given, f"Bearer {manager_token(key)}".encode()):
            raise _NobodyError("Authorization: needs `Bearer` and the manager's token of this run")

    def explained(request: Request, status: int, heading: str, why: str, **headers: str) -> Response:
        if _wants_json(request):
            return JSONResponse({"error": why}, status, headers=headers)
        root = "../" * (request.url.path.count("/") - 1)
        return HTMLResponse(pages.notice_page(settings, heading, why, root), status, headers=headers)

    @app.exception_handler(LinkError)
    async def bad_link(request: Request, error: Exception) -> Response:
        if seconds := strangers.wait(request.client.host if request.client else ""):
            return await too_often(request, _TooOftenError(seconds))
        return explained(request, 403, "This link does not work", str(error))

    @app.exception_handler(_NobodyError)
    async def nobody(request: Request, error: Exception) -> Response:
        return explained(request, 401, "Who are you?", str(error))

    @app.exception_handler(_TooOftenError)
    async def too_often(request: Request, error: Exception) -> Response:
        seconds = error.seconds if isinstance(error, _TooOftenError) else 1.0
        return explained(request, 429, "A moment, please", str(error), **{"Retry-After": str(max(1, round(seconds)))})

    @app.exception_handler(_BadFormError)
    async def bad_form(request: Request, error: Exception) -> Response:
        return explained(request, 400, "That was not understood", str(error))

    @app.exception_handler(OperationalError)
    async def away(request: Request, error: Exception) -> Response:
        why = "Your answer is not saved yet. Please try again in a moment."
        return explained(request, 503, "The database is away", why, **{"Retry-After": "1"})

    app.add_middleware(_Headers)
    return app


async def _fields(request: Request) -> dict[str, str]:
    """The fields of a form, the last of each name. _BadFormError if it is bigger than any of ours."""
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > MAX_BODY:
            raise _BadFormError("That is too long; a note has at most 2,000 characters.")
    try:
        return {name: values[-1] for name, values in parse_qs(body.decode(), True, max_num_fields=20).items()}
    except ValueError:
        raise _BadFormError("That is no form of this page.") from None


def _vote(fields: dict[str, str], guidelines: str) -> Vote:
    """The vote that a form says."""
    answer = fields.get("answer", "")
    picks = fields.get("picks", "")
    try:
        task, showing = int(fields.get("task", "")), int(fields.get("showing", ""))
        places = (
            () if answer in ("tie", "both_bad", "skip") else tuple(int(n) - 1 for n in (picks or answer).split(","))
        )
    except ValueError:
        raise _BadFormError("Please answer with the page's own buttons.") from None
    if not (0 <= task <= _BIGGEST_ID and 0 <= showing <= _BIGGEST_ID):
        raise _BadFormError("There is no such comparison.")
    verdict: voting.Verdict = "prefer" if places else answer  # type: ignore[assignment]
    return Vote(task, showing, verdict, places, fields.get("note", "").replace("\0", "").strip(), guidelines)


def _wants_json(request: Request) -> bool:
    return "application/json" in request.headers.get("accept", "") or request.url.path.startswith("/manage/")


def _root(request: Request) -> str:
    """Where the cookie goes. Below another path a proxy has taken that away, and only the browser knows it: the whole host."""
    return request.scope.get("root_path") or "/"
