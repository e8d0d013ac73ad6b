"""The page that Prometheus and the kubelet read: /metrics, /healthz, /readyz."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from .metrics import Metrics


@asynccontextmanager
async def serving(
    metrics: Metrics, port: int, troubles: Callable[[], list[str]] = list, host: str | None = None
) -> AsyncIterator[int]:
    """Answer while the context lasts, on all addresses unless one is given. Yields the port (a free one for port 0).

    `troubles` says why the process is not ready.
    """

    async def show_metrics(request: web.Request) -> web.Response:
        return web.Response(body=generate_latest(metrics.registry), headers={"Content-Type": CONTENT_TYPE_LATEST})

    async def healthz(request: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def readyz(request: web.Request) -> web.Response:
        found = troubles()
        return web.Response(status=503 if found else 200, text="\n".join(found or ["ok"]) + "\n")

    app = web.Application()
    app.add_routes([web.get("/metrics", show_metrics), web.get("/healthz", healthz), web.get("/readyz", readyz)])
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=1)
    await runner.setup()
    try:
        await web.TCPSite(runner, host, port).start()
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()
