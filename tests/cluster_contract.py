"""What any cluster must do for the operator, written once: the simulated, the local and the Kubernetes one each run all of it,
so that what is learned on one holds on the others.

A test class inherits a contract and gives it a `subject`. The second contract is that of an API server, which keeps the
simulated one honest: what it says there must be what a real one says.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import pytest
from conditions import until
from trainyard_api.names import KIND, LABEL_RUN
from trainyard_operator.cluster import kubernetes
from trainyard_operator.cluster.access import ApiError
from trainyard_operator.cluster.protocol import Cluster, ConflictError, GoneError
from trainyard_operator.runtime.store import Store

Manifest = dict[str, Any]
STRANGER = "11111111-1111-4111-8111-111111111111"


@dataclass(frozen=True)
class Subject:
    """A cluster, and what it takes to try it."""

    cluster: Cluster
    store: Store
    """Kept up to date by the cluster's watch, or whatever stands for one."""
    pod: Callable[[str], Manifest]
    """A pod of this name, not made yet, that does not end by itself."""
    run: Callable[[], Awaitable[Manifest]]
    """A run that nobody else writes to, as it is listed."""
    gone_run: Callable[[], Awaitable[Manifest]]
    """A run as it was listed before it was deleted."""

    def pods(self, made: Manifest) -> dict[str, Manifest]:
        """By UID, what the store has of the run that a pod belongs to."""
        metadata = made["metadata"]
        pods = self.store.pods((metadata["namespace"], metadata["labels"][LABEL_RUN]))
        return {pod["metadata"]["uid"]: pod for pod in pods}


def uid(manifest: Manifest) -> str:
    return str(manifest["metadata"]["uid"])


def version(manifest: Manifest) -> int:
    return int(manifest["metadata"]["resourceVersion"])


class ClusterContract:
    """For every cluster."""

    async def test_making_a_pod_twice_is_one_pod(self, subject: Subject) -> None:
        first, second = [await subject.cluster.create(subject.pod("twice")) for _ in range(2)]
        assert uid(first) == uid(second)
        assert [uid(each) for each in await subject.cluster.list_pods()].count(uid(first)) == 1

    async def test_a_name_that_another_owner_has_is_a_conflict(self, subject: Subject) -> None:
        await subject.cluster.create(subject.pod("taken"))
        mine = subject.pod("taken")
        mine["metadata"]["ownerReferences"][0]["uid"] = STRANGER
        with pytest.raises(ConflictError, match="another"):
            await subject.cluster.create(mine)

    async def test_what_is_made_is_seen_and_so_is_that_it_is_gone(self, subject: Subject) -> None:
        made = await subject.cluster.create(subject.pod("seen"))
        await until(lambda: uid(made) in subject.pods(made), "the pod was seen")
        assert await subject.cluster.delete_pod(made, 0)
        await until(lambda: uid(made) not in subject.pods(made), "the deletion was seen")

    async def test_a_pod_is_found_while_it_is_there_and_not_by_its_name_alone(self, subject: Subject) -> None:
        made = await subject.cluster.create(subject.pod("sought"))
        found = await subject.cluster.find_pod(made)
        assert found
        assert uid(found) == uid(made)
        assert await subject.cluster.find_pod({**made, "metadata": {**made["metadata"], "uid": STRANGER}}) is None
        await subject.cluster.delete_pod(made, 0)
        await until(lambda: uid(made) not in subject.pods(made), "the deletion was seen")
        assert await subject.cluster.find_pod(made) is None

    async def test_deleting_what_is_gone_is_done_and_spares_a_later_pod_of_the_name(self, subject: Subject) -> None:
        first = await subject.cluster.create(subject.pod("again"))
        await subject.cluster.delete_pod(first, 0)
        await until(lambda: uid(first) not in subject.pods(first), "the first one is gone")
        assert not await subject.cluster.delete_pod(first, 0)
        later = await subject.cluster.create(subject.pod("again"))
        assert not await subject.cluster.delete_pod(first, 0)
        await until(lambda: uid(later) in subject.pods(later), "the later one was seen")
        assert "deletionTimestamp" not in subject.pods(later)[uid(later)]["metadata"]
        assert uid(later) in map(uid, await subject.cluster.list_pods())

    async def test_a_change_has_a_greater_version_than_what_it_changed(self, subject: Subject) -> None:
        run = await subject.run()
        written = await subject.cluster.write_status(run, {**(run.get("status") or {}), "message": "changed"})
        assert version(written) > version(run)

    async def test_pods_are_listed_whole_with_what_the_store_asks_for(self, subject: Subject) -> None:
        made = [await subject.cluster.create(subject.pod(f"many-{number}")) for number in range(3)]
        began = datetime.now(UTC)
        listed = await subject.cluster.list_pods()
        assert {uid(each) for each in made} <= {uid(each) for each in listed}
        assert {(each["apiVersion"], each["kind"]) for each in listed} == {("v1", "Pod")}
        empty = Store(lambda key: None, lambda: datetime.now(UTC))
        assert empty.repair(listed, "Pod", began) == 0
        assert len(empty.pods((made[0]["metadata"]["namespace"], made[0]["metadata"]["labels"][LABEL_RUN]))) >= 3

    async def test_runs_are_listed_with_what_the_store_asks_for(self, subject: Subject) -> None:
        run = await subject.run()
        empty = Store(lambda key: None, lambda: datetime.now(UTC))
        assert empty.repair(await subject.cluster.list_runs(), KIND, datetime.now(UTC)) == 0
        assert uid(run) in map(uid, empty.runs())

    async def test_a_status_is_written_once_and_only_over_what_was_read(self, subject: Subject) -> None:
        run = await subject.run()
        status = run.get("status") or {}
        written = await subject.cluster.write_status(run, {**status, "message": "as the test says"})
        assert written["status"]["message"] == "as the test says"
        assert written["spec"] == run["spec"]
        with pytest.raises(ConflictError):
            await subject.cluster.write_status(run, {**status, "message": "too late"})
        again = await subject.cluster.write_status(written, {**status, "message": "in its turn"})
        assert again["status"]["message"] == "in its turn"

    async def test_the_status_of_a_run_that_is_gone_is_not_written(self, subject: Subject) -> None:
        run = await subject.gone_run()
        with pytest.raises(GoneError):
            await subject.cluster.write_status(run, run.get("status") or {})

    async def test_making_a_secret_twice_is_done(self, subject: Subject) -> None:
        metadata = {name: value for name, value in subject.pod("token")["metadata"].items() if name != "annotations"}
        secret = {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "stringData": {"token": "t"}}
        for _ in range(2):
            await subject.cluster.create(secret)

    async def test_events_are_taken_also_twice(self, subject: Subject) -> None:
        run = await subject.run()
        for _ in range(2):
            await subject.cluster.post_event(run, "Warning", "Tested", "by a test")


class ApiServerContract(ClusterContract):
    """For clusters behind an API server, real or simulated: what our client and our policies lean on."""

    async def test_a_namespace_that_is_not_there_is_gone(self, subject: Subject) -> None:
        pod = subject.pod("lost")
        pod["metadata"]["namespace"] = "not-there"
        with pytest.raises(GoneError):
            await subject.cluster.create(pod)

    async def test_a_list_longer_than_a_page_is_whole(self, subject: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(kubernetes, "PAGE", 2)
        made = [await subject.cluster.create(subject.pod(f"paged-{number}")) for number in range(5)]
        assert {uid(each) for each in made} <= {uid(each) for each in await subject.cluster.list_pods()}

    async def test_a_status_that_says_what_it_said_before_is_no_change(self, subject: Subject) -> None:
        run = await subject.run()
        written = await subject.cluster.write_status(run, {**(run.get("status") or {}), "message": "once"})
        again = await subject.cluster.write_status(written, written["status"])
        assert version(again) == version(written)

    async def test_an_attempt_never_goes_back(self, subject: Subject) -> None:
        run = await subject.run()
        status = run.get("status") or {}
        written = await subject.cluster.write_status(run, {**status, "attempt": 7})
        with pytest.raises(ApiError, match=r"status\.attempt never goes back"):
            await subject.cluster.write_status(written, {**status, "attempt": 6})

    async def test_a_pod_that_has_no_node_goes_at_once_whatever_its_grace(self, subject: Subject) -> None:
        pod = subject.pod("unplaced")
        pod["spec"]["terminationGracePeriodSeconds"] = 600
        made = await subject.cluster.create(pod)
        await subject.cluster.delete_pod(made, None)
        assert uid(made) not in map(uid, await subject.cluster.list_pods())

    async def test_what_is_gone_before_it_is_deleted_is_told_apart_by_its_uid(self, subject: Subject) -> None:
        made = await subject.cluster.create(subject.pod("other"))
        await subject.cluster.delete_pod({**made, "metadata": {**made["metadata"], "uid": STRANGER}}, 0)
        assert uid(made) in map(uid, await subject.cluster.list_pods())
