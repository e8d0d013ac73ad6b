"""What must hold of leadership, by what the API server has on record: who writes holds the Lease, nobody takes it over from one
who may still write, and a leader that is gone is succeeded within seconds.
"""

from collections.abc import Callable, Iterable

from ..cluster.protocol import Manifest
from ..cluster.simulated import ApiServer
from ..runtime.election import LEASE_SECONDS
from .faults import Kind
from .operators import Operator

SUCCESSION_SECONDS = 15.0
"""What is promised from a leader's death to another's acting; and from SIGTERM less, RELEASE_SECONDS."""
RELEASE_SECONDS = 2.0
MESSAGES = 10
"""From a release to the next leader's acting: release, news of it, taking over, three lists. They count beside, for the API
server of some worlds is 0.2 s away.
"""


class Leaders:
    """Watches the Lease. `prompt` of a world whose network is sound: successions take no longer than promised there."""

    def __init__(
        self,
        server: ApiServer,
        time: Callable[[], float],
        operators: Callable[[], Iterable[Operator]],
        broken: Callable[[str], None],
        *,
        prompt: bool,
        latency: float,
    ) -> None:
        self.successions: list[tuple[Kind, float]] = []
        """What took a leader away, and after how many seconds another one acted."""
        self._time = time
        self._operators = operators
        self._broken = broken
        self._prompt, self._latency = prompt, latency
        self._holder = ""
        self._changed = 0.0
        """When the Lease was last written."""
        self._taken: tuple[Kind, float, Operator] | None = None
        """What took the last leader away, when, and which one it was."""
        server.watch("leases", self._lease_changed)

    @property
    def leader(self) -> Operator | None:
        """The process that holds the Lease, if it is well."""
        return next((each for each in self._operators() if each.leads and each.replica == self._holder), None)

    def taken(self, kind: Kind, operator: Operator) -> None:
        """Something takes the leader away, perhaps for a moment only."""
        self._taken = kind, self._time(), operator

    def sent(self, sender: Operator, what: str) -> None:
        """A process sends a write."""
        if sender.replica != self._holder:
            self._broken(
                f"{sender.name} ({sender.replica}) sends {what}, and {self._holder or 'nobody'} holds the Lease"
            )

    def acts(self, operator: Operator) -> None:
        """A process begins to act."""
        if self._taken is None:
            return
        kind, since, _ = self._taken
        self._taken, seconds = None, self._time() - since
        self.successions.append((kind, seconds))
        bound = RELEASE_SECONDS if kind == "operator is stopped" else SUCCESSION_SECONDS
        waited = self._time() - max(since, operator.well_since or 0.0)
        if self._prompt and waited > bound + MESSAGES * self._latency:
            self._broken(f"{operator.name} acts {waited:.1f} s after: {kind}")

    def _lease_changed(self, event: str, lease: Manifest) -> None:
        holder, before, now = lease["spec"].get("holderIdentity") or "", self._holder, self._time()
        if holder and before and holder != before and now - self._changed < LEASE_SECONDS:
            self._broken(f"{holder} took the Lease over from {before}, which wrote it {now - self._changed:.1f} s ago")
        if self._taken and holder == before == self._taken[2].replica and self._taken[2].well_since:
            self._taken = None  # it leads on
        self._holder, self._changed = holder, now
