"""What the store believes when events come late, twice, or not at all."""

from datetime import datetime, timedelta
from typing import Any

import pytest
from builders import NOW, ended, manifest, pod
from trainyard_api.names import ANNOTATION_EXCLUDED, ANNOTATION_FORGIVEN, KIND, LABEL_RANK
from trainyard_api.protocol import AgentState, PeerState
from trainyard_api.status import CheckpointStatus, Progress
from trainyard_operator.runtime.store import Key, Store

KEY = ("team", "tiny")


class Clock:
    """A clock that the test turns."""

    def __init__(self) -> None:
        self.time = NOW

    def __call__(self) -> datetime:
        return self.time


def a_store() -> tuple[Store, list[Key], Clock]:
    woken: list[Key] = []
    clock = Clock()
    return Store(woken.append, clock), woken, clock


def version(of: dict[str, Any], number: int, **metadata: Any) -> dict[str, Any]:
    return {**of, "metadata": {**of["metadata"], "resourceVersion": str(number), **metadata}}


def test_an_older_event_does_not_undo_a_newer_answer() -> None:
    store, woken, _ = a_store()
    store.put(version(manifest(seed=2), 12))
    store.put(version(manifest(seed=1), 9))
    run = store.run(KEY)
    assert run is not None
    assert run["spec"]["seed"] == 2
    assert woken == [KEY]


def test_a_run_made_anew_under_the_old_name_replaces_it_and_its_late_deletion_is_ignored() -> None:
    store, _, _ = a_store()
    old, new = version(manifest(), 50), version(manifest(), 3, uid="another")
    store.put(old)
    store.put(new)
    store.remove(old)
    assert store.run(KEY) == new


def test_how_a_container_ended_is_kept_when_its_kubelet_has_started_another_one() -> None:
    store, _, _ = a_store()
    killed = ended(137, 1, reason="OOMKilled")["status"]["containerStatuses"][0]["state"]["terminated"]
    gone = {"exitCode": 137, "finishedAt": None}

    def end_before(number: int, **status: Any) -> Any:
        store.put(version(pod(1, containerStatuses=[{"name": "trainer", **status}]), number))
        return store.pods(KEY)[0]["status"]["containerStatuses"][0].get("lastState", {}).get("terminated")

    assert end_before(8, restartCount=0, state={"terminated": killed}) is None
    again = {"restartCount": 1, "lastState": {"terminated": gone}}
    assert end_before(9, state={"waiting": {}}, **again) == killed
    assert end_before(10, state={"running": {}}, **again) == killed
    assert end_before(11, state={"running": {}}, **again | {"restartCount": 2}) == gone, "that end was not seen"


def test_a_pods_event_wakes_its_run() -> None:
    store, woken, _ = a_store()
    store.put(pod(0))
    assert woken == [KEY]
    assert [p["metadata"]["name"] for p in store.pods(KEY)] == ["tiny-base-0-2"]


def test_a_relist_drops_what_is_gone_but_not_what_came_after_it_began() -> None:
    store, _, clock = a_store()
    store.put(pod(0))
    clock.time += timedelta(seconds=10)
    began = clock()
    clock.time += timedelta(seconds=10)
    store.put(pod(1))
    assert store.repair([], "Pod", began) == 1
    assert [p["metadata"]["name"] for p in store.pods(KEY)] == ["tiny-base-1-2"]
    assert store.repair([], KIND, clock()) == 0


def test_what_an_agent_says_wakes_its_run_only_when_it_differs() -> None:
    store, woken, clock = a_store()
    state = AgentState(version=1, master_port=1)
    store.put_agent(KEY, "pod-uid", state)
    clock.time += timedelta(seconds=5)
    store.put_agent(KEY, "pod-uid", state)
    view = store.agent("pod-uid")
    assert woken == [KEY]
    assert view is not None
    assert view.changed == NOW


@pytest.mark.parametrize(
    ("news", "wakes"),
    [
        ({"progress": Progress(step=6, steps=9), "checkpoint": CheckpointStatus(step=5, uri="u", time="t")}, False),
        ({"progress": Progress(step=6, steps=9), "phase": "failed"}, True),
        ({"progress": None}, True),
        ({"silent": {1: "t"}}, True),
        ({"peers": [PeerState(worker=1, attempt=2, phase="failed")]}, True),
    ],
)
def test_steps_and_checkpoints_alone_wake_no_run(news: dict[str, Any], wakes: bool) -> None:
    store, woken, _ = a_store()
    state = AgentState(version=1, master_port=1, attempt=2, phase="running", progress=Progress(step=5, steps=9))
    store.put_agent(KEY, "pod-uid", state)
    store.put_agent(KEY, "pod-uid", state.model_copy(update={"version": 2, **news}))
    assert woken == [KEY] * (1 + wakes)
    view = store.agent("pod-uid")
    assert view is not None
    assert view.state.version == 2


def test_the_last_words_of_worker_0_outlive_its_pod_but_not_its_run() -> None:
    store, _, _ = a_store()
    for each in (manifest(), pod(0), pod(1)):
        store.put(each)
    store.remove(ended(20, 0))  # its end was not seen by itself
    store.remove(ended(20, 1))
    went = store.went(KEY)
    assert went is not None
    assert went["status"]["containerStatuses"][0]["state"]["terminated"]["exitCode"] == 20
    assert went["metadata"]["labels"][LABEL_RANK] == "0"
    store.put(pod(0, attempt=3))
    store.remove(manifest())
    store.remove(pod(0, attempt=3))
    assert store.went(KEY) is None


def test_forgetting_a_pod_forgets_its_agent_and_its_assignment() -> None:
    store, _, _ = a_store()
    store.put(pod(0))
    uid = pod(0)["metadata"]["uid"]
    store.put_agent(KEY, uid, AgentState(version=1, master_port=1))
    store.put_assigned(uid, 2)
    store.remove(pod(0))
    assert (store.agent(uid), store.assigned(uid), store.pods(KEY)) == (None, None, [])


def test_what_runs_say_of_nodes_is_known_to_all_others_until_it_is_forgiven() -> None:
    store, _, _ = a_store()
    said = {"node": "node-b", "cause": "ProcessFailed", "time": "2026-11-24T11:00:00Z", "until": "2026-11-25T11:00:00Z"}
    run = {**version(manifest(), 12), "status": {"excludedNodes": [said]}}
    store.put(run)
    assert [(where, entry.node) for where, entry in store.excluded_by_others(("other", "tiny"))] == [("team", "node-b")]
    assert store.excluded_by_others(KEY) == ()
    store.put(version(run, 13, annotations={ANNOTATION_FORGIVEN: '{"node-b": "2026-11-24T11:00:01Z"}'}))
    assert store.excluded_by_others(("other", "tiny")) == ()
    store.put(version(run, 14))
    store.remove(run)
    assert store.excluded_by_others(("other", "tiny")) == ()


def test_of_a_pods_annotations_only_ours_is_kept() -> None:
    store, _, _ = a_store()
    store.put(version(pod(0), 9, annotations={"cni": "x" * 1000, ANNOTATION_EXCLUDED: "node-b"}))
    assert store.pods(KEY)[0]["metadata"]["annotations"] == {ANNOTATION_EXCLUDED: "node-b"}


def test_of_an_agent_that_takes_no_place_the_first_and_the_last_time_of_the_attempt_are_known() -> None:
    store, _, clock = a_store()
    store.put_unanswered("uid", 2)
    clock.time += timedelta(seconds=5)
    store.put_unanswered("uid", 2)
    assert store.unanswered("uid", 2) == (NOW, clock.time)
    assert store.unanswered("uid", 3) is None
    store.put_unanswered("uid", 3)
    assert store.unanswered("uid", 3) == (clock.time, clock.time)
