"""Each query of the Grafana dashboard, put to a real Prometheus that has scraped a real run, and what alerts read."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from conditions import eventually
from rules.scraping import Prometheus

DASHBOARD = json.loads(Path("charts/trainyard/dashboards/trainyard.json").read_text())
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
TARGETS = [(panel["title"], target["expr"]) for panel in PANELS for target in panel["targets"]]

RULES = yaml.safe_load(Path("charts/trainyard/rules/trainyard.yaml").read_text())
ALERTS = {rule["alert"]: rule["expr"] for group in RULES["groups"] for rule in group["rules"]}

VARIABLES = {"$namespace": ".*", "$run": ".*", "$__rate_interval": "30s"}
NOT_HERE = {
    "rest_client_requests_total",
    "leader_election_master_status",
    "trainyard_loop_lag_seconds",
    "trainyard_watch_age_seconds",
    "trainyard_run_stragglers",
    "trainyard_run_excluded_nodes",
    "trainyard_skipped_batches_total",
}
"""Exported, but with samples only where there is an API server, several nodes or ranks, or trouble of another kind."""
OF_REWARDS = {f"trainyard_step_{part}_seconds" for part in ("generate", "score", "push")}
"""Exported by stages that learn from rewards; test_rewarded.py and test_apart.py in tests/local/training see that they are."""


def promql(expression: str) -> str:
    """The query as Grafana sends it, with its variables replaced."""
    for variable, value in VARIABLES.items():
        expression = expression.replace(variable, value)
    return expression


def metrics(expression: str) -> set[str]:
    """Names of the metrics that a query reads, as they are exported: without a histogram's suffix."""
    found = re.findall(r"\b(?:trainyard|workqueue|rest_client|leader_election)_\w+", expression)
    return {name.removesuffix("_bucket") for name in found}


@pytest.mark.parametrize(("panel", "expression"), TARGETS, ids=[f"{title}: {expr}" for title, expr in TARGETS])
def test_a_query_finds_data(panel: str, expression: str, prometheus: Prometheus) -> None:
    assert "$" not in promql(expression), "a variable that this test doesn't know"
    read = metrics(expression)
    assert read, f"{panel}: reads no metric"
    exported = prometheus.exported | OF_REWARDS
    assert read <= exported, f"{panel}: {read - exported} is exported by nobody"
    found = prometheus.query(promql(expression))  # a query that isn't valid fails here
    if not found and not read <= NOT_HERE | OF_REWARDS:  # a scrape that took too long leaves a gap
        eventually(lambda: prometheus.query(promql(expression)), 20, f"{panel}: data for {promql(expression)}")


@pytest.mark.parametrize("panel", PANELS, ids=[panel["title"] for panel in PANELS])
def test_a_panel_says_what_it_shows_and_in_which_unit(panel: dict[str, Any]) -> None:
    assert panel["title"]
    assert panel["description"]
    assert panel["fieldConfig"]["defaults"]["unit"]
    assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}


def test_panels_do_not_overlap() -> None:
    cells = [
        (x, y)
        for place in (panel["gridPos"] for panel in DASHBOARD["panels"])
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    ]
    assert len(cells) == len(set(cells))
    assert max(x for x, _ in cells) < 24


@pytest.mark.parametrize(("alert", "expression"), ALERTS.items(), ids=ALERTS)
def test_an_alert_reads_what_is_exported(alert: str, expression: str, prometheus: Prometheus) -> None:
    assert metrics(expression), f"{alert}: reads no metric"
    assert metrics(expression) <= prometheus.exported


def test_recoveries_are_counted_by_the_cause_that_status_names(prometheus: Prometheus) -> None:
    (series,) = prometheus.query("trainyard_restarts_total")
    assert series["metric"]["cause"] == "ProcessFailed"
    assert series["value"][1] == "1"
