"""What a rank wrote last, which is mostly why it ended.

A crash in native code ends with what faulthandler says of it: all threads, then a list of modules. What matters is where the
thread was that crashed, so of all that the first lines of that thread are kept, as the very last words.
"""

from collections import deque

from .tracebacks import FATAL, place, threads

LINES = 20
CHARACTERS = 300
"""Of a line that is kept."""
CRASH_FRAMES = 4
"""With the error, as many lines as a recovery in the run's status keeps."""
CRASH_LINES = 1_000
"""At most, that are looked at."""


class LastWords:
    """The end of a rank's output."""

    def __init__(self) -> None:
        self._lines: deque[str] = deque(maxlen=LINES)
        self._crash: list[str] = []

    def hear(self, line: str) -> None:
        """It has written another line."""
        if self._crash or line.startswith(FATAL):
            self._crash.append(line)
            del self._crash[CRASH_LINES:]
        else:
            self._lines.append(line[:CHARACTERS])

    @property
    def lines(self) -> list[str]:
        """The last ones, the crash at their end."""
        crash = self._crash[:1] + [f"  {frame}" for frame in self._frames()[:CRASH_FRAMES]]
        return [*self._lines, *crash][-LINES:]

    @property
    def crashed_in(self) -> str:
        """`string_at (data/shards.py:40)`; nothing if it has not crashed in native code, or in no code of Python's."""
        return place(threads("\n".join(self._crash)))[0] if self._frames() else ""

    def _frames(self) -> list[str]:
        crashed = next(iter(threads("\n".join(self._crash))), [])
        return [f"{frame.function} ({frame.file}:{frame.line})" for frame in crashed]
