"""The chart, rendered by Helm's own engine (PyPI's helm-python-sdk): what it lets in, and what it lets nobody do."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import helm_python
import pytest
import yaml
from trainyard_api.names import LABEL_TLS
from trainyard_operator.cluster import leases
from trainyard_operator.cluster.kubernetes import CLUSTER_VERBS, VERBS

CHART = Path("charts/trainyard")
Objects = list[dict[str, Any]]

REFUSED = {
    "a value with a wrong name": ({"imagee": {}}, "imagee"),
    "a nested value with a wrong name": ({"image": {"tagg": "1"}}, "tagg"),
    "namespaces that aren't a list": ({"watchNamespaces": "team-a"}, "watchNamespaces"),
    "a namespace twice": ({"watchNamespaces": ["a", "a"]}, "watchNamespaces"),
    "a namespace that no cluster would have": ({"watchNamespaces": ["Team_A"]}, "watchNamespaces"),
    "a policy that isn't a pull policy": ({"image": {"pullPolicy": "Sometimes"}}, "pullPolicy"),
    "a string where a switch is meant": ({"crds": {"install": "false"}}, "install"),
    "TLS that is neither on nor off": ({"agents": {"tls": "yes"}}, "tls"),
    "no operator at all": ({"replicas": 0}, "replicas"),
    "an interval without a unit": ({"monitoring": {"podMonitor": {"interval": "30"}}}, "interval"),
    "a memory limit that isn't a quantity": ({"resources": {"limits": {"memory": "lots"}}}, "memory"),
}


def render(values: dict[str, Any] | None = None, chart: Path = CHART) -> Objects:
    """Every object that an installation with these values makes."""
    with helm_python.Chart.load(chart) as loaded:
        rendered = loaded.render(values or {}, name="trainyard", namespace="trainyard-system")
    texts = [text for name, text in rendered.items() if name.endswith(".yaml")]
    return [each for text in texts for each in yaml.safe_load_all(text) if each]


def of_kind(objects: Objects, kind: str) -> Objects:
    """Those of one kind that are installed, rather than made for `helm test`."""
    hooked = "helm.sh/hook"
    return [o for o in objects if o["kind"] == kind and hooked not in (o["metadata"].get("annotations") or {})]


def rules(role: dict[str, Any]) -> dict[tuple[str, str], set[str]]:
    """(API group, resource) → verbs."""
    found: dict[tuple[str, str], set[str]] = {}
    for rule in role["rules"]:
        for name in ((group, resource) for group in rule["apiGroups"] for resource in rule["resources"]):
            found[name] = found.get(name, set()) | set(rule["verbs"])
    return found


def environment(deployment: dict[str, Any]) -> dict[str, Any]:
    """The operator's environment variables: their values, or where those come from."""
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    return {each["name"]: each.get("value", each.get("valueFrom")) for each in container["env"]}


def test_helm_lint_has_nothing_to_say_but_that_an_icon_is_missing() -> None:
    report = helm_python.lint(CHART, strict=True)
    assert [message["error"] for message in report["messages"]] == ["icon is recommended"]


@pytest.mark.parametrize(("values", "named"), REFUSED.values(), ids=REFUSED)
def test_refuses(values: dict[str, Any], named: str) -> None:
    with pytest.raises(helm_python.HelmError, match=named):
        render(values)


def test_every_value_is_in_the_schema_and_the_other_way_round() -> None:
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    schema = json.loads((CHART / "values.schema.json").read_text())
    assert set(values) == set(schema["properties"]) - {"global"}


@pytest.mark.parametrize("kind", ["Deployment", "Pod"], ids=["the operator", "the pod of helm test"])
def test_pods_meet_the_restricted_pod_security_standard_with_a_read_only_root(kind: str) -> None:
    (found,) = [o for o in render() if o["kind"] == kind]
    spec = found["spec"]["template"]["spec"] if kind == "Deployment" else found["spec"]
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    for container in spec["containers"]:
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert container["resources"]["limits"]["memory"]


def test_the_operator_may_do_what_it_does_and_nothing_else() -> None:
    objects = render()
    (role,) = [r for r in of_kind(objects, "ClusterRole") if r["metadata"]["name"] == "trainyard"]
    assert rules(role) == VERBS | CLUSTER_VERBS
    assert [each["metadata"]["name"] for each in of_kind(objects, "Role")] == ["trainyard-lease"]


def test_with_namespaces_to_watch_it_may_do_so_there_alone() -> None:
    objects = render({"watchNamespaces": ["team-a", "team-b"]})
    roles, bindings = (
        [each for each in of_kind(objects, kind) if each["metadata"]["name"] == "trainyard"]
        for kind in ("Role", "RoleBinding")
    )
    assert [role["metadata"]["namespace"] for role in roles] == ["team-a", "team-b"]
    assert [binding["metadata"]["namespace"] for binding in bindings] == ["team-a", "team-b"]
    assert all(rules(role) == VERBS for role in roles)
    assert not of_kind(objects, "ClusterRoleBinding")


def test_the_operator_is_told_what_to_watch() -> None:
    (deployment,) = of_kind(render({"watchNamespaces": ["team-a", "team-b"]}), "Deployment")
    assert environment(deployment)["TRAINYARD_WATCH_NAMESPACES"] == "team-a,team-b"


def test_two_operators_stand_for_one_lease_each_under_its_pod_s_name_and_may_touch_no_other() -> None:
    objects = render()
    (deployment,), (role,) = of_kind(objects, "Deployment"), of_kind(objects, "Role")
    assert deployment["spec"]["replicas"] == 2
    assert rules(role) == leases.VERBS
    named = {tuple(rule["verbs"]): rule.get("resourceNames") for rule in role["rules"]}
    said = environment(deployment)
    own = [deployment["metadata"]["name"]]
    assert named == {("create",): None, ("get", "watch", "patch"): [said["TRAINYARD_LEASE_NAME"]], ("get",): own}
    assert [said["TRAINYARD_DEPLOYMENT"]] == own
    assert role["metadata"]["namespace"] == said["TRAINYARD_LEASE_NAMESPACE"] == "trainyard-system"
    assert said["POD_NAME"] == {"fieldRef": {"fieldPath": "metadata.name"}}


@pytest.mark.parametrize(("replicas", "budgets"), [(1, 0), (2, 1)])
def test_a_drain_leaves_one_operator_where_there_are_two(replicas: int, budgets: int) -> None:
    objects = render({"replicas": replicas})
    (deployment,), found = of_kind(objects, "Deployment"), of_kind(objects, "PodDisruptionBudget")
    assert len(found) == budgets
    for budget in found:
        assert budget["spec"] == {"maxUnavailable": 1, "selector": deployment["spec"]["selector"]}


def test_users_who_may_edit_a_namespace_may_edit_its_runs_but_not_their_status() -> None:
    roles = {r["metadata"]["name"]: r for r in of_kind(render(), "ClusterRole")}
    edit, view = roles["trainyard-edit"], roles["trainyard-view"]
    assert edit["metadata"]["labels"]["rbac.authorization.k8s.io/aggregate-to-edit"] == "true"
    assert rules(edit) == {
        ("trainyard.dev", "trainingruns"): {"create", "update", "patch", "delete", "deletecollection"}
    }
    assert view["metadata"]["labels"]["rbac.authorization.k8s.io/aggregate-to-view"] == "true"
    assert {verb for verbs in rules(view).values() for verb in verbs} == {"get", "list", "watch"}


@pytest.mark.parametrize(
    ("crds", "there", "kept"), [({}, 1, True), ({"keep": False}, 1, False), ({"install": False}, 0, False)]
)
def test_the_resource_is_installed_and_kept_as_told(crds: dict[str, bool], there: int, kept: bool) -> None:
    found = of_kind(render({"crds": crds}), "CustomResourceDefinition")
    assert len(found) == there
    policies = [(each["metadata"].get("annotations") or {}).get("helm.sh/resource-policy") for each in found]
    assert policies == [("keep" if kept else None)] * there


def test_a_key_is_made_unless_one_is_named() -> None:
    (key,) = of_kind(render(), "Secret")
    assert len(key["data"]["key"]) >= 64
    objects = render({"key": {"existingSecret": "ours"}})
    assert not of_kind(objects, "Secret")
    (deployment,) = of_kind(objects, "Deployment")
    assert deployment["spec"]["template"]["spec"]["volumes"][0]["secret"]["secretName"] == "ours"


@pytest.mark.parametrize("monitor", ["serviceMonitor", "podMonitor", "alerts"])
def test_monitors_without_the_prometheus_operator_are_refused_by_name(monitor: str) -> None:
    with pytest.raises(
        helm_python.HelmError, match=r"monitoring\.coreos\.com/v1.*install them, or leave them disabled"
    ):
        render({"monitoring": {monitor: {"enabled": True}}})


@pytest.fixture
def monitored(tmp_path: Path) -> Path:
    """The chart on a cluster with the Prometheus operator: the engine can't be told of further API versions."""
    chart = shutil.copytree(CHART, tmp_path / "trainyard")
    guard = chart / "templates" / "_monitoring.tpl"
    guard.write_text(re.sub(r"{{- if not .*{{- end }}\n{{- end }}", "{{- end }}", guard.read_text(), flags=re.DOTALL))
    return chart


def test_alerts_are_the_rules_that_prometheus_reads_with_labels_of_the_release(monitored: Path) -> None:
    objects = render({"monitoring": {"alerts": {"enabled": True, "labels": {"release": "prometheus"}}}}, monitored)
    (made,) = of_kind(objects, "PrometheusRule")
    assert made["metadata"]["labels"]["release"] == "prometheus"
    assert made["spec"] == yaml.safe_load((CHART / "rules" / "trainyard.yaml").read_text())
    assert not of_kind(render({}, monitored), "PrometheusRule")


def test_monitors_find_the_operator_and_the_agents(monitored: Path) -> None:
    on = {"enabled": True, "labels": {"release": "prometheus"}}
    objects = render({"monitoring": {"serviceMonitor": on, "podMonitor": on}}, monitored)
    (service_monitor,), (pod_monitor,) = of_kind(objects, "ServiceMonitor"), of_kind(objects, "PodMonitor")
    assert (
        service_monitor["metadata"]["labels"]["release"] == pod_monitor["metadata"]["labels"]["release"] == "prometheus"
    )
    (service,), (deployment,) = of_kind(objects, "Service"), of_kind(objects, "Deployment")
    assert service_monitor["spec"]["selector"]["matchLabels"].items() <= service["metadata"]["labels"].items()
    assert service["spec"]["selector"].items() <= deployment["spec"]["template"]["metadata"]["labels"].items()
    (port,) = service["spec"]["ports"]
    assert service_monitor["spec"]["endpoints"][0]["port"] == port["name"]
    (agents,) = pod_monitor["spec"]["podMetricsEndpoints"]
    assert agents["port"] == "agent"
    (scheme,) = agents["relabelings"]
    label = re.sub(r"\W", "_", LABEL_TLS)
    assert scheme == {
        "sourceLabels": [f"__meta_kubernetes_pod_label_{label}"],
        "regex": "true",
        "targetLabel": "__scheme__",
        "replacement": "https",
    }


@pytest.mark.parametrize(("tls", "said"), [(False, "off"), (True, "on")])
def test_the_operator_is_told_whether_agents_serve_https(tls: bool, said: str) -> None:
    (deployment,) = of_kind(render({"agents": {"tls": tls}}), "Deployment")
    assert environment(deployment)["TRAINYARD_AGENT_TLS"] == said


def test_the_dashboard_carries_the_label_that_grafana_looks_for() -> None:
    dashboard = {"enabled": True, "label": "team_dashboard", "labelValue": "yes"}
    (found,) = of_kind(render({"monitoring": {"dashboard": dashboard}}), "ConfigMap")
    assert found["metadata"]["labels"]["team_dashboard"] == "yes"
    committed = json.loads((CHART / "dashboards" / "trainyard.json").read_text())
    assert json.loads(found["data"]["trainyard.json"]) == committed


def test_the_run_of_helm_test_is_a_valid_training_run() -> None:
    from trainyard_api.run import TrainingRun

    (pod,) = [o for o in render({"watchNamespaces": ["team-a"]}) if o["kind"] == "Pod"]
    run = TrainingRun.model_validate(json.loads(pod["spec"]["containers"][0]["env"][0]["value"]))
    assert run.key == ("team-a", "helm-test")
    assert run.spec.storage.claim_name == "trainyard-test"
