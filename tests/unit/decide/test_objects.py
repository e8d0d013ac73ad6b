"""Pods as they are made: hardened, owned, labelled, and open to a template only where it can't hurt the node."""

from dataclasses import replace
from typing import Any

import pytest
from builders import UID, a_run, deleting, ended, manifest
from builders import pod as a_pod
from trainyard_api.names import LABEL_ATTEMPT, LABEL_TLS
from trainyard_api.status import Phase
from trainyard_operator.cluster.agent_access import speaks_tls
from trainyard_operator.decide.objects import job_of, pod_manifest, secret_manifest
from trainyard_operator.decide.observation import Observation, Settings
from trainyard_operator.decide.template import merge


def seen(**spec: object) -> Observation:
    return a_run(**spec).in_stage(phase=Phase.PENDING).seen()


def test_a_pod_holds_no_credentials_and_can_not_touch_its_node() -> None:
    pod = pod_manifest(seen(), 1)
    assert pod["metadata"]["name"] == "tiny-base-1-2"
    assert pod["metadata"]["ownerReferences"][0]["uid"] == UID
    assert pod["spec"]["automountServiceAccountToken"] is False
    assert pod["spec"]["restartPolicy"] == "Never"
    assert pod["spec"]["securityContext"]["runAsNonRoot"] is True
    security = pod["spec"]["containers"][0]["securityContext"]
    assert security == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }


def speaking(pod: dict[str, Any]) -> dict[str, Any]:
    """The pod as one whose agent serves HTTPS."""
    labels = {**pod["metadata"]["labels"], LABEL_TLS: "true"}
    return {**pod, "metadata": {**pod["metadata"], "labels": labels}}


TLS = {
    "a group that begins does as the setting says": ((), True, True),
    "not where it is off": ((), False, False),
    "a pod that is made anew does as those that stay, whatever the setting says by now": ((a_pod(0),), True, False),
    "the same the other way round": ((speaking(a_pod(0)),), False, True),
    "those of another stage don't count": ((a_pod(0, "corpus", attempt=1),), True, True),
    "nor those that go": ((deleting(a_pod(0)), ended(1, 1)), True, True),
}


@pytest.mark.parametrize(("pods", "setting", "tls"), TLS.values(), ids=TLS)
def test_a_group_serves_https_all_of_it_or_none(pods: tuple[dict[str, Any], ...], setting: bool, tls: bool) -> None:
    at = a_run(template={"metadata": {"labels": {LABEL_TLS: "maybe"}}}).in_stage(phase=Phase.PENDING).with_pods(*pods)
    observed = replace(at.seen(), settings=Settings(trainer_image="trainer:1", agent_tls=setting))
    made, secret = pod_manifest(observed, 1), secret_manifest(observed)
    trainer = made["spec"]["containers"][0]
    (volume,) = [volume for volume in made["spec"]["volumes"] if volume["name"] == "token"]
    assert speaks_tls(made) == speaks_tls(secret) == tls
    assert trainer["readinessProbe"]["httpGet"]["scheme"] == ("HTTPS" if tls else "HTTP")
    named = {"name": "TRAINYARD_TLS_FILE", "value": "/var/run/trainyard/tls.pem"}
    assert (named in trainer["env"]) == tls
    assert volume["secret"]["secretName"] == secret["metadata"]["name"] == f"tiny-{UID[:8]}{'-tls' if tls else ''}"


def test_a_template_adds_to_our_container_and_brings_sidecars_but_protection_stays() -> None:
    template = {
        "metadata": {"labels": {"team": "a", LABEL_ATTEMPT: "99"}},
        "spec": {
            "nodeSelector": {"pool": "gpu"},
            "containers": [
                {"name": "trainer", "env": [{"name": "NCCL_DEBUG", "value": "INFO"}]},
                {"name": "side", "image": "s"},
            ],
        },
    }
    pod = pod_manifest(seen(template=template), 0)
    trainer, side = pod["spec"]["containers"]
    assert pod["metadata"]["labels"]["team"] == "a"
    assert pod["metadata"]["labels"][LABEL_ATTEMPT] == "2"
    assert pod["spec"]["nodeSelector"] == {"pool": "gpu"}
    assert {"name": "NCCL_DEBUG", "value": "INFO"} in trainer["env"]
    assert trainer["image"] == "trainer:1"
    assert side["securityContext"]["readOnlyRootFilesystem"] is True


def test_the_secret_of_an_object_store_becomes_the_trainers_environment_and_nothing_is_mounted() -> None:
    pod = pod_manifest(seen(storage={"uri": "s3://bucket/prefix", "secretName": "keys"}), 0)["spec"]
    assert pod["containers"][0]["envFrom"] == [{"secretRef": {"name": "keys"}}]
    assert {volume["name"] for volume in pod["volumes"]} == {"token", "scratch", "shared-memory"}


def test_gpus_are_ranks_and_a_limit_and_cpu_is_not_limited() -> None:
    observed = seen(resources={"gpus": 2, "cpu": "8", "memory": "64Gi"}, workers={"count": 1})
    resources = pod_manifest(observed, 0)["spec"]["containers"][0]["resources"]
    assert resources == {
        "requests": {"cpu": "8", "memory": "64Gi", "nvidia.com/gpu": "2"},
        "limits": {"memory": "64Gi", "nvidia.com/gpu": "2"},
    }


def test_a_job_names_the_artifacts_that_its_stage_reads() -> None:
    job = job_of(seen())
    assert job.output_uri == "file:///storage/team/tiny/base"
    assert job.inputs == {"data": "file:///storage/team/tiny/corpus"}


def test_a_job_names_the_stage_whose_weights_it_begins_with() -> None:
    corpus, base, _ = manifest()["spec"]["stages"]
    further = {"name": "further", "pretrain": base["pretrain"] | {"model": {"stage": "base"}}}
    assert job_of(a_run(stages=[corpus, base, further]).in_stage("further", Phase.PENDING).seen()).inputs == {
        "data": "file:///storage/team/tiny/corpus",
        "model.stage": "file:///storage/team/tiny/base",
    }


def test_a_job_names_each_part_of_a_mixture_and_the_tokenizer_that_they_share() -> None:
    corpus, base, _ = manifest()["spec"]["stages"]
    settings = {name: value for name, value in base["pretrain"].items() if name != "data"}
    code = {"name": "code", "prepare": corpus["prepare"] | {"tokenizer": {"stage": "corpus"}}}
    mixture = {"mixture": [{"data": "corpus", "weight": 3}, {"data": "code", "weight": 1}]}
    stages = [corpus, code, base | {"pretrain": settings | mixture}]
    preparing = a_run(stages=stages).in_stage("code", Phase.PENDING).seen()
    assert job_of(preparing).inputs == {"tokenizer.stage": "file:///storage/team/tiny/corpus"}
    assert job_of(seen(stages=stages)).inputs == {
        "mixture[0].data": "file:///storage/team/tiny/corpus",
        "mixture[1].data": "file:///storage/team/tiny/code",
    }


def test_merging_goes_by_name_and_changes_neither_side() -> None:
    ours = {
        "env": [{"name": "A", "value": "1"}],
        "keep": {"x": 1},
        "command": ["a", "b"],
        "tolerations": [{"key": "k"}],
    }
    theirs = {
        "env": [{"name": "B", "value": "2"}, {"name": "A", "value": "3"}],
        "keep": {"y": 2},
        "command": ["c"],
        "tolerations": [{"operator": "Exists"}],
    }
    assert merge(ours, theirs) == {
        "env": [{"name": "A", "value": "3"}, {"name": "B", "value": "2"}],
        "keep": {"x": 1, "y": 2},
        "command": ["c"],
        "tolerations": [{"key": "k"}, {"operator": "Exists"}],
    }
    assert ours["env"] == [{"name": "A", "value": "1"}]


def test_snapshots_get_a_quarter_of_a_workers_memory_unless_told_otherwise() -> None:
    assert job_of(seen(resources={"memory": "2Gi"})).memory_budget == 2**29
    stages = manifest()["spec"]["stages"]
    stages[1]["pretrain"]["checkpoint"] = {"memoryBudget": "100M"}
    assert job_of(seen(stages=stages)).memory_budget == 100_000_000
