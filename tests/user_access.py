"""An API server of a test, to which the current context of a kubeconfig leads."""

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from aiohttp import web


@asynccontextmanager
async def reached_by(kubeconfig: Path, answer: Callable[[web.Request], Awaitable[web.Response]]) -> AsyncIterator[None]:
    """Serve for as long as the context lasts. The kubeconfig is written, its user works in the namespace `team`."""
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    _write(kubeconfig, f"http://127.0.0.1:{runner.addresses[0][1]}")
    try:
        yield
    finally:
        await runner.cleanup()


def _write(kubeconfig: Path, server: str) -> None:
    config = {
        "current-context": "t",
        "contexts": [{"name": "t", "context": {"cluster": "t", "user": "t", "namespace": "team"}}],
        "clusters": [{"name": "t", "cluster": {"server": server}}],
        "users": [{"name": "t", "user": {"token": "t"}}],
    }
    kubeconfig.write_text(json.dumps(config))
