"""Agents as they answer and behave (`trainyard_trainer.agent`), without processes: ranks are a `Gang`'s.

Kept from the real ones: an older attempt or another place of the same attempt is refused with 409, the same place again is
taken, a failed attempt is outlived, a stage that is done or would fail again ends the agent, agents tell agent 0, and they
notice when they do not hear of each other.
"""

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

import aiohttp
from trainyard_api.exit_codes import ExitCode
from trainyard_api.names import AGENT_PORT
from trainyard_api.protocol import HEARTBEAT_SECONDS, SILENT_SECONDS, AgentState, Assignment, PeerState, Termination
from yarl import URL

from .gang import Gang, Machine
from .network import Content, Network

PEER_PAUSE_SECONDS = 0.5
FINAL = (ExitCode.DONE, ExitCode.PERMANENT)


class Agent:
    """Process 1 of a pod. `ended` is called with its termination, None if it was killed."""

    def __init__(
        self,
        address: str,
        node: Machine,
        network: Network,
        gang_of: Callable[[Assignment, "Agent"], Gang],
        ended: Callable[[Termination | None], None],
        now: Callable[[], str],
    ) -> None:
        self.address = address
        self.node = node
        self.state = AgentState(version=1, master_port=29500)
        self.assignment: Assignment | None = None
        self.gang: Gang | None = None
        """That its ranks belong to, while they run."""
        self.dead = False
        self._network = network
        self._gang_of = gang_of
        self._ended = ended
        self._now = now
        self._stopping = False
        self._peers: dict[int, PeerState] = {}
        self._missed: dict[int, tuple[float, str]] = {}
        """Workers that are not heard of, and since when."""
        self._changed = asyncio.Event()
        self._telling: asyncio.Task[None] | None = None

    # ---- what operator and agents ask

    async def answer(self, method: str, path: str, query: Mapping[str, str], body: Any) -> Content:
        """`GET /state`, `PUT /assignment`, `PUT /peer`."""
        match method, path:
            case "GET", "/state":
                return 200, {}, await self._state(int(query["since"]), float(query["wait"]))
            case "PUT", "/assignment":
                return self._assign(Assignment.model_validate(body))
            case "PUT", "/peer":
                return self._hear(PeerState.model_validate(body))
        return 404, {}, {}

    async def _state(self, since: int, wait: float) -> Any:
        if self.state.version == since:
            try:
                async with asyncio.timeout(wait):
                    await self._changed.wait()
            except TimeoutError:
                pass
        return self.state.wire()

    def _assign(self, given: Assignment) -> Content:
        if given == self.assignment:
            return 200, {}, self.state.wire()
        if self._stopping or self.dead:
            return 409, {}, {"errors": ["stopping"]}
        if self.assignment and given.attempt <= self.assignment.attempt:
            return 409, {}, {"errors": [f"attempt {given.attempt} is over or assigned otherwise"]}
        self.assignment = given
        if self.gang:
            gang, self.gang = self.gang, None
            gang.leave(given.worker)
        fresh = AgentState(version=self.state.version, master_port=self.state.master_port, attempt=given.attempt)
        self._publish(**{**dict(fresh), "phase": "running", "peers": self._peers_of(given.attempt)})
        self.gang = self._gang_of(given, self)
        self.gang.join(given.worker, self)
        self._missed = {}
        self.listen()
        return 200, {}, self.state.wire()

    def _hear(self, peer: PeerState) -> Content:
        if peer.attempt < self.state.attempt:
            return 409, {}, {"errors": [f"attempt {peer.attempt} is over"]}
        self._peers[peer.worker] = peer
        if peer.attempt == self.state.attempt:
            self._publish(peers=self._peers_of(peer.attempt))
        return 200, {}, {}

    def _peers_of(self, attempt: int) -> list[PeerState]:
        return [peer for _, peer in sorted(self._peers.items()) if peer.attempt == attempt]

    def hears_of(self, address: str) -> bool:
        """Whether the agent there is of the same group."""
        return self.assignment is not None and address in self.assignment.addresses

    def listen(self) -> None:
        """Look within a beat who is heard of; called when that may have changed, for beats themselves are left out."""
        jitter = self._network.random.random() * HEARTBEAT_SECONDS
        asyncio.get_running_loop().call_later(jitter, self._listen)

    def _listen(self) -> None:
        place, loop = self.assignment, asyncio.get_running_loop()
        if self.dead or place is None or place.workers == 1:
            return
        expected = (0,) if place.worker else range(1, place.workers)
        over = {peer.worker for peer in self.state.peers if peer.phase in ("succeeded", "failed")}
        unheard = [each for each in expected if each not in over and not self._hears(place.addresses[each])]
        self._missed = {each: self._missed.get(each, (loop.time(), self._now())) for each in unheard}
        silent = {each: at for each, (since, at) in self._missed.items() if loop.time() - since >= SILENT_SECONDS}
        if silent != self.state.silent:
            self._publish(silent=silent)
        if len(silent) < len(unheard):
            loop.call_later(SILENT_SECONDS, self._listen)

    def _hears(self, address: str) -> bool:
        host = f"http://{address}:{AGENT_PORT}"
        reached = address in self.node.addresses or (self.node.connected and host not in self._network.cut_off)
        return reached and host in self._network.hosts

    # ---- what its ranks do

    def report(self, **said: object) -> None:
        """Take in what its ranks report."""
        self._publish(**said)

    def ranks_ended(self, gang: Gang, termination: Termination) -> None:
        """Its ranks have ended: it outlives them, if another attempt may go better."""
        if gang is not self.gang or self.dead:
            return
        self.gang = None
        full = {name: getattr(self.state, name) for name in ("progress", "checkpoint", "resumed_step", "artifact")}
        termination = termination.model_copy(update=full)
        if self._stopping or termination.exit_code in FINAL:
            self._end(termination)
        else:
            self._publish(phase="failed", termination=termination)

    # ---- what the kubelet does

    def terminate(self) -> None:
        """SIGTERM: save and leave."""
        if self._stopping or self.dead:
            return
        self._stopping = True
        if self.gang is None:
            self._end(Termination(exit_code=ExitCode.STOPPED, cause="Stopped", time=self._now()))
        else:
            self._publish(phase="stopping")
            gang = self.gang
            gang.stop()
            if not gang.halted:  # there is nothing to save: its ranks leave at once
                worker = self.assignment.worker if self.assignment else 0
                gang.end(worker, ExitCode.STOPPED, "Stopped")

    def kill(self) -> None:
        """SIGKILL, or the power goes."""
        if self.dead:
            return
        self.dead = True
        self._hush()
        if self.gang and self.assignment:
            gang, self.gang = self.gang, None
            gang.leave(self.assignment.worker)
        self._ended(None)

    def _end(self, termination: Termination) -> None:
        """Leave, a moment after agent 0 may have heard why."""
        self._publish(
            phase="succeeded" if termination.exit_code == ExitCode.DONE else "failed", termination=termination
        )
        asyncio.get_running_loop().call_later(0.3, self._leave, termination)

    def _leave(self, termination: Termination) -> None:
        if not self.dead:
            self.dead = True
            self._hush()
            self._ended(termination)

    def _hush(self) -> None:
        if self._telling:
            self._telling.cancel()

    def _publish(self, **changes: Any) -> None:
        self.state = self.state.model_copy(update=changes | {"version": self.state.version + 1})
        self._changed.set()
        self._changed = asyncio.Event()
        place = self.assignment
        if place and place.worker and {"phase", "termination"} & changes.keys():
            self._hush()
            self._telling = asyncio.get_running_loop().create_task(self._tell(place))

    async def _tell(self, place: Assignment) -> None:
        """Say it until agent 0 has taken it, or is at a newer attempt."""
        state = self.state
        news = PeerState(worker=place.worker, attempt=state.attempt, phase=state.phase, termination=state.termination)
        url = URL(f"http://{place.addresses[0]}:{AGENT_PORT}/peer")
        while True:
            try:
                async with asyncio.timeout(2):
                    status = (await self._put(url, news.wire())) if self.node.connected else 0
                if status in (200, 409):
                    return
            except (aiohttp.ClientError, TimeoutError):
                pass  # it is said again
            await asyncio.sleep(PEER_PAUSE_SECONDS)

    async def _put(self, url: URL, news: Any) -> int:
        status, _, _ = await self._network.carry(self.address, "PUT", url, {}, news)
        return status
