"""The agent's own log: events with fields, a line each, between the lines of its ranks."""

import json


def log(event: str, **fields: str | int | float) -> None:
    """Write one event to standard output."""
    text = " ".join(f"{name}={_shown(value)}" for name, value in fields.items())
    print(f"[agent] {event} {text}".rstrip(), flush=True)


def _shown(value: str | int | float) -> str:
    return json.dumps(value, ensure_ascii=False) if isinstance(value, str) else f"{value}"
