"""How an agent says no: a status code, and the reasons as JSON."""

from aiohttp import web


def refuse(status: int, *errors: str) -> web.Response:
    """An answer with the reasons."""
    return web.json_response({"errors": errors}, status=status)
