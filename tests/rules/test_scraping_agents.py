"""A real Prometheus finds agents of either kind, HTTP and HTTPS, by what the chart's PodMonitor says."""

import json
from pathlib import Path
from typing import Any

import yaml
from agents import AgentUnderTest
from conditions import eventually
from rules.scraping import Prometheus, scraping
from trainyard_api.names import AGENT_PORT, LABEL_TLS
from trainyard_operator.cluster.agent_access import AgentAccess

MONITORS = Path("charts/trainyard/templates/monitors.yaml")
LABEL = "__meta_kubernetes_pod_label_" + "".join(each if each.isalnum() else "_" for each in LABEL_TLS)
"""As Prometheus gives it, which the PodMonitor names as well."""


def of_the_chart() -> dict[str, Any]:
    """The part of a scrape configuration that the Prometheus operator makes of the PodMonitor's TLS."""
    text = MONITORS.read_text().partition("- port: agent")[2].partition("{{- end }}")[0]
    endpoint = yaml.safe_load(text.replace("{{ .interval }}", "1s"))
    relabelings = [
        {
            "source_labels": each["sourceLabels"],
            "regex": each["regex"],
            "target_label": each["targetLabel"],
            "replacement": each["replacement"],
        }
        for each in endpoint["relabelings"]
    ]
    skip = endpoint["tlsConfig"]["insecureSkipVerify"]
    return {"relabel_configs": relabelings, "tls_config": {"insecure_skip_verify": skip}, "scrape_interval": "1s"}


def test_agents_are_scraped_whether_they_serve_https_or_not(prometheus_binary: Path, tmp_path: Path) -> None:
    identity = tmp_path / "tls.pem"
    identity.write_text(AgentAccess(b"0123456789abcdef").identity("one"))
    kinds: dict[str, dict[str, str]] = {"false": {}, "true": {"TRAINYARD_TLS_FILE": str(identity)}}
    agents = {
        tls: AgentUnderTest(tmp_path / tls, tmp_path / "storage", variables, None) for tls, variables in kinds.items()
    }
    targets = tmp_path / "agents.json"
    listed = [
        {"targets": [f"{agent.address}:{AGENT_PORT}"], "labels": {LABEL: tls, "tls": tls}}
        for tls, agent in agents.items()
    ]
    targets.write_text(json.dumps(listed))
    try:
        with scraping(prometheus_binary, tmp_path, "http://127.0.0.1:9", targets, **of_the_chart()) as url:
            seen = 'count by (tls) (trainyard_attempt{stage="base"})'
            eventually(lambda: len(Prometheus(url).query(seen)) == 2, 30, "both are scraped")
    finally:
        for agent in agents.values():
            agent.process.kill()
            agent.end()
