"""What the operator asks of a cluster. The reconcile loop knows this protocol alone, so that the same core drives
Kubernetes and the processes of one machine.

Objects are raw Kubernetes JSON: the typed client takes 20 times as long to read a list.
"""

from typing import Any, Protocol

from trainyard_api.run import TrainingRun

Manifest = dict[str, Any]
"""A Kubernetes object as JSON."""


class ConflictError(Exception):
    """The object has changed since we read it, or its name is taken by an object of another owner."""


class GoneError(Exception):
    """The object isn't there any more."""


class RefusedError(Exception):
    """The cluster won't have the object: an invalid field, a quota, a policy. str(e) says which."""


class Cluster(Protocol):
    """Where actions happen. Every call has a deadline of its own and may be repeated without harm."""

    def storage_uri(self, run: TrainingRun) -> str:
        """The run's storage as its pods see it."""
        ...

    async def create(self, manifest: Manifest) -> Manifest:
        """Make a Pod, Secret, Service or Ingress. One of that name that has our owner already is success; raises ConflictError
        otherwise.

        Raises RefusedError if it can't be made at all.
        """
        ...

    async def delete_pod(self, pod: Manifest, grace_seconds: int | None) -> bool:
        """Delete this very pod (by UID), with its own grace period if None. False if it was gone already."""
        ...

    async def find_pod(self, pod: Manifest) -> Manifest | None:
        """This very pod (by UID) as it is now, None if it is gone."""
        ...

    async def delete_run(self, run: TrainingRun) -> None:
        """Delete this very run (by UID), unless it has changed since: then ConflictError. Gone already is success.

        Its pods and its Secret go with it; what it made stays.
        """
        ...

    async def write_status(self, run: Manifest, status: Manifest, *, routine: bool = False) -> Manifest:
        """Replace the run's status; `run` carries the resourceVersion that must still be current.

        What is `routine` lets all else go first.

        Raises ConflictError if it isn't, GoneError if the run was deleted.
        """
        ...

    async def post_event(self, run: Manifest, type: str, reason: str, message: str) -> None:
        """Record an event on the run. `type` is Normal or Warning."""
        ...

    async def restarts_in_place(self) -> bool:
        """Whether all nodes start a container again in its pod when a rule of the pod says so."""
        ...

    async def list_runs(self) -> list[Manifest]:
        """All runs, for the repair of what a watch missed."""
        ...

    async def list_pods(self) -> list[Manifest]:
        """All pods that carry our run label."""
        ...
