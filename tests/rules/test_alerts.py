"""The chart's alerts: each when it should fire and when not, on made-up series (Prometheus's own promtool), and with a runbook.
That a real run exports what they read is in test_dashboard.py, which has one.
"""

import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from rules.conftest import prometheus_program

RULES = Path("charts/trainyard/rules/trainyard.yaml")
ALERTS: dict[str, dict[str, Any]] = {
    rule["alert"]: rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]
}
RUN = 'namespace="team", run="tiny", stage="base"'
INFO = f'trainyard_run_info{{{RUN}, phase="%s", reason="Training"}}'
STEP, AGE = f"trainyard_run_step{{{RUN}}}", f"trainyard_run_checkpoint_age_seconds{{{RUN}}}"
FAILED = f"trainyard_checkpoint_failed{{{RUN}}}"
LEADS = 'leader_election_master_status{name="trainyard", job="operator", instance="%s"}'
LAG = 'trainyard_loop_lag_seconds{job="operator", instance="%s"}'
OTHER = 'leader_election_master_status{name="another-controller", job="other", instance="o"}'
LASTS = "+0x200"


@dataclass(frozen=True)
class Case:
    """Series, a value a minute, and for how many minutes' end an alert fires then."""

    alert: str
    series: dict[str, str]
    minute: int
    fires: bool


CASES = {
    "a run that failed": Case("TrainyardRunFailed", {INFO % "Failed": "1" + LASTS}, 1, True),
    "a run that goes on": Case("TrainyardRunFailed", {INFO % "Running": "1" + LASTS}, 1, False),
    "no step for longer than half an hour": Case(
        "TrainyardNoProgress", {STEP: "7" + LASTS, INFO % "Running": "1" + LASTS}, 31, True
    ),
    "not at once": Case("TrainyardNoProgress", {STEP: "7" + LASTS, INFO % "Running": "1" + LASTS}, 20, False),
    "steps that are slow": Case("TrainyardNoProgress", {STEP: "0+1x200", INFO % "Running": "1" + LASTS}, 100, False),
    "a run that recovers over and over": Case(
        "TrainyardNoProgress",
        {STEP: "7" + LASTS, INFO % "Running": "1+0x20 _x200", INFO % "Recovering": "_x20 1" + LASTS},
        60,
        True,
    ),
    "a run that is suspended": Case(
        "TrainyardNoProgress", {STEP: "7" + LASTS, INFO % "Suspended": "1" + LASTS}, 100, False
    ),
    "a checkpoint of three hours ago": Case(
        "TrainyardCheckpointTooOld", {AGE: "0+60x200", INFO % "Running": "1" + LASTS}, 180, True
    ),
    "one of an hour ago": Case(
        "TrainyardCheckpointTooOld", {AGE: "0+60x200", INFO % "Running": "1" + LASTS}, 60, False
    ),
    "an old one of a run that waits": Case(
        "TrainyardCheckpointTooOld", {AGE: "0+60x200", INFO % "Queued": "1" + LASTS}, 180, False
    ),
    "a save that failed, the first of all": Case("TrainyardSavingFails", {FAILED: "_x5 1" + LASTS}, 10, True),
    "one more that failed": Case("TrainyardSavingFails", {FAILED: "1+0x50 2" + LASTS}, 55, True),
    "one long ago": Case("TrainyardSavingFails", {FAILED: "1+0x50 2" + LASTS}, 90, False),
    "an attempt that begins anew, after one with failures": Case(
        "TrainyardSavingFails", {FAILED: "2+0x50 0" + LASTS}, 55, False
    ),
    "two operators of which none leads": Case(
        "TrainyardOperatorWithoutLeader",
        {LEADS % pod: "0" + LASTS for pod in "ab"} | {LAG % pod: "0" + LASTS for pod in "ab"} | {OTHER: "1" + LASTS},
        3,
        True,
    ),
    "two of which one leads": Case(
        "TrainyardOperatorWithoutLeader",
        {LEADS % "a": "0" + LASTS, LEADS % "b": "1" + LASTS} | {LAG % pod: "0" + LASTS for pod in "ab"},
        3,
        False,
    ),
    "another controller without a leader": Case(
        "TrainyardOperatorWithoutLeader",
        {LEADS % "a": "1" + LASTS, LAG % "a": "0" + LASTS, OTHER: "0" + LASTS},
        3,
        False,
    ),
    "no operator at all": Case("TrainyardOperatorWithoutLeader", {OTHER: "1" + LASTS}, 3, True),
}


def test_alerts_fire_when_they_should_and_only_then(tmp_path: Path) -> None:
    promtool = prometheus_program("promtool")
    tests = [
        {
            "name": what,
            "interval": "1m",
            "input_series": [{"series": series, "values": values} for series, values in case.series.items()],
            "promql_expr_test": [
                {
                    "expr": f'count(ALERTS{{alertname="{case.alert}", alertstate="firing"}})',
                    "eval_time": f"{case.minute}m",
                    "exp_samples": [{"labels": "{}", "value": 1}] if case.fires else [],
                }
            ],
        }
        for what, case in CASES.items()
    ]
    assert {case.alert for case in CASES.values() if case.fires} == set(ALERTS)
    file = tmp_path / "tests.yaml"
    file.write_text(
        yaml.safe_dump({"rule_files": [str(RULES.absolute())], "evaluation_interval": "1m", "tests": tests})
    )
    done = subprocess.run([promtool, "test", "rules", file], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("alert", ALERTS)
def test_an_alert_has_a_runbook(alert: str) -> None:
    assert f"\n## {alert}\n" in Path("docs/runbooks.md").read_text()
