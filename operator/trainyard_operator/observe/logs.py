"""Logs as events with fields, a line of JSON each: `{"time", "level", "event", "logger", …fields}`.

A field is what a caller gives in `extra`.
"""

import json
import logging
import sys
from datetime import UTC, datetime

_OWN = set(vars(logging.makeLogRecord({}))) | {"message", "asctime"}


class JsonLines(logging.Formatter):
    """One JSON object a line."""

    def format(self, record: logging.LogRecord) -> str:
        """The record as a line of JSON."""
        fields = {name: value for name, value in vars(record).items() if name not in _OWN}
        time = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        line = {"time": time, "level": record.levelname.lower(), "event": record.getMessage(), "logger": record.name}
        if record.exc_info:
            line["trace"] = self.formatException(record.exc_info)
        return json.dumps(fields | line, default=str, ensure_ascii=False)


def write_json_logs(level: str) -> None:
    """Send all logs to standard error as JSON lines. kopf says nothing below a warning: its every event is a line."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    logging.getLogger("kopf").setLevel(logging.WARNING)
