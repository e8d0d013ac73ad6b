"""The way to the page of a stage that asks people."""

from typing import Any

from builders import UID, a_run
from trainyard_api.names import LABEL_STAGE
from trainyard_api.status import Phase
from trainyard_operator.decide.decision import CreateWay

INGRESS = {"host": "compare.example.org", "className": "nginx", "annotations": {"a": "b"}}


def made(stage: dict[str, Any]) -> list[dict[str, Any]]:
    """The services and ingresses that the pod of a stage comes with."""
    run = a_run(workers={"count": 1}, stages=[{"name": "judged", **stage}])
    return [
        action.manifest
        for action in run.in_stage("judged", phase=Phase.PENDING).decide().actions
        if isinstance(action, CreateWay)
    ]


def collect(**more: Any) -> dict[str, Any]:
    return {"collect": {"comparisons": "votes.jsonl", **more}}


def test_a_page_has_a_service_that_chooses_its_pod() -> None:
    [service] = made(collect())
    assert service["kind"] == "Service"
    assert service["metadata"]["name"] == f"page-tiny-judged-{UID[:6]}"
    assert service["metadata"]["ownerReferences"][0]["uid"] == UID
    assert service["spec"]["selector"][LABEL_STAGE] == "judged"


def test_an_ingress_leads_to_the_service_by_plain_http_or_with_a_certificate() -> None:
    service, ingress = made(collect(ingress=INGRESS))
    [rule] = ingress["spec"]["rules"]
    assert rule["host"] == "compare.example.org"
    assert rule["http"]["paths"][0]["backend"]["service"]["name"] == service["metadata"]["name"]
    assert ingress["spec"]["ingressClassName"] == "nginx"
    assert ingress["metadata"]["annotations"] == {"a": "b"}
    assert "tls" not in ingress["spec"]
    _, ingress = made(collect(ingress={**INGRESS, "tlsSecret": "compare-tls"}))
    assert ingress["spec"]["tls"] == [{"hosts": ["compare.example.org"], "secretName": "compare-tls"}]


def test_no_other_stage_has_any() -> None:
    assert not made({"prepare": {"sources": [{"builtin": "python-docs"}]}})
