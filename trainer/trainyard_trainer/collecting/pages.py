"""The annotators' page as HTML, made by the server: it works without its script, which adds keys and sends votes until they
are taken. Everything that models, annotators or the run's author wrote is escaped, by Jinja2's autoescape, and shown as text.
"""

import hashlib
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from .items import Message
from .settings import ServerSettings
from .voting import View

_HERE = Path(__file__).parent
STATIC = {
    "page.css": "text/css; charset=utf-8",
    "page.js": "text/javascript; charset=utf-8",
    "icon.svg": "image/svg+xml",
}
"""Files of static/, and what they are."""
_ROLES = {"system": "Setting", "user": "Question", "assistant": "Earlier answer"}
"""What the roles of a conversation are called on the page."""

_ENVIRONMENT = Environment(
    loader=FileSystemLoader(_HERE / "templates"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)


@dataclass(frozen=True)
class Block:
    """A paragraph of guidelines, or a list of its lines."""

    lines: tuple[str, ...]
    listed: bool


def task_page(view: View, settings: ServerSettings, annotator: str, form_token: str, said: str = "") -> str:
    """The page of a comparison, or of why there is none now. `said` is a sentence about what was just done or refused."""
    shown = view.shown
    responses = [shown.item.responses[position].text for position in shown.order] if shown else []
    return _render(
        "task.html",
        settings,
        view=view,
        annotator=annotator,
        form_token=form_token,
        said=said,
        turns=[(_ROLES[turn.role], turn.content) for turn in _turns(view)],
        responses=responses,
        guidelines=blocks(settings.guidelines),
    )


def notice_page(settings: ServerSettings, heading: str, sentence: str, root: str = "") -> str:
    """A page that says one thing, such as why a link lets nobody in. `root` leads from its address to the page's."""
    return _render("notice.html", settings, heading=heading, sentence=sentence, root=root)


def blocks(text: str) -> list[Block]:
    """Guidelines as paragraphs and lists."""
    found = []
    for part in text.replace("\r\n", "\n").split("\n\n"):
        lines = tuple(line.strip() for line in part.splitlines() if line.strip())
        if lines:
            listed = all(line.startswith("- ") for line in lines)
            found.append(Block(tuple(line.removeprefix("- ") for line in lines) if listed else lines, listed))
    return found


def guidelines_digest(settings: ServerSettings) -> str:
    """Which guidelines a vote was given under, in 12 hexadecimal digits; empty without any."""
    text = settings.guidelines.strip()
    return hashlib.sha256(text.encode()).hexdigest()[:12] if text else ""


@cache
def static_file(name: str) -> bytes:
    """A file of STATIC."""
    return (_HERE / "static" / name).read_bytes()


@cache
def _versions() -> dict[str, str]:
    """Digests of the static files, which their addresses carry: browsers keep them until they change."""
    return {name: hashlib.sha256(static_file(name)).hexdigest()[:12] for name in STATIC}


def _turns(view: View) -> tuple[Message, ...]:
    return view.shown.item.turns if view.shown else ()


def _render(template: str, settings: ServerSettings, **values: Any) -> str:
    return _ENVIRONMENT.get_template(template).render(
        {"settings": settings, "versions": _versions(), "root": "", **values}
    )
