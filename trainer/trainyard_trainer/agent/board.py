"""The state that an agent shows, its version, and those who wait for the next one.

Progress alone makes a new version at most once a second, so that a stage of fast steps doesn't keep the operator busy;
the last progress is never lost, for it goes out with the next version, whatever makes that one.
"""

import asyncio
from typing import Any

from trainyard_api.protocol import AgentState, PeerState
from trainyard_api.status import Progress

PROGRESS_SECONDS = 1.0


class Board:
    """What `GET /state` answers."""

    def __init__(self, master_port: int) -> None:
        self.state = AgentState(version=1, master_port=master_port)
        self._changed = asyncio.Event()
        self._published = float("-inf")
        self._held: Progress | None = None
        self._timer: asyncio.TimerHandle | None = None

    def publish(self, **changes: Any) -> None:
        """Show the changes now, as a new version."""
        if self._timer:
            self._timer.cancel()
        held = {"progress": self._held} if self._held else {}
        self._held = self._timer = None
        version = self.state.version + 1
        self.state = self.state.model_copy(update=held | changes | {"version": version})
        self._published = asyncio.get_running_loop().time()
        self._changed.set()
        self._changed = asyncio.Event()

    def progress(self, progress: Progress) -> None:
        """Show progress, now or within a second."""
        loop = asyncio.get_running_loop()
        self._held = progress
        if loop.time() >= self._published + PROGRESS_SECONDS:
            self.publish()
        elif not self._timer:
            self._timer = loop.call_at(self._published + PROGRESS_SECONDS, self.publish)

    def begin(self, attempt: int, peers: list[PeerState], *, stopping: bool) -> None:
        """Show a new attempt, of which nothing is known yet but what peers have said."""
        self._held = None
        fresh = AgentState(version=0, master_port=self.state.master_port)
        unknown = {name: getattr(fresh, name) for name in AgentState.model_fields if name != "version"}
        phase = "stopping" if stopping else "running"
        self.publish(**unknown | {"attempt": attempt, "peers": peers, "phase": phase})

    @property
    def latest_progress(self) -> Progress | None:
        """The last progress heard of, shown or not."""
        return self._held or self.state.progress

    async def after(self, version: int | None, seconds: float | None) -> AgentState:
        """The state: at once if its version isn't `version`, else as soon as it changes or `seconds`, if given, are over."""
        if version == self.state.version:
            try:
                async with asyncio.timeout(seconds):
                    await self._changed.wait()
            except TimeoutError:
                pass
        return self.state
