"""Generates the Grafana dashboard: charts/trainyard/dashboards/trainyard.json. Run by `make generate`.

Panels are rows of a table here, so that a reviewer reads queries and not JSON. Runs are shown from the operator's
metrics, which last as long as the run; speed and loss from the agents', which have every step. Agents of all workers
report the same run, hence `max by`: rank 0 has the whole story, and a dead pod's series ends by itself.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

OUTPUT = Path(__file__).parent / "trainyard" / "dashboards" / "trainyard.json"
DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}
RUN = 'namespace=~"$namespace", run=~"$run"'


@dataclass(frozen=True)
class Panel:
    """One panel. `queries`: legend → PromQL."""

    title: str
    description: str
    unit: str
    queries: dict[str, str]
    width: int = 8
    kind: str = "timeseries"


ROWS: dict[str, list[Panel]] = {
    "Runs": [
        Panel(
            "Runs by phase",
            "How many runs are in each phase.",
            "none",
            {"{{phase}}": 'sum by (phase) (trainyard_runs{namespace=~"$namespace"})'},
        ),
        Panel(
            "Now",
            "Each run's stage, phase and the reason for it.",
            "none",
            {"": f"max by (namespace, run, stage, phase, reason) (trainyard_run_info{{{RUN}}})"},
            width=16,
            kind="table",
        ),
    ],
    "Progress": [
        Panel(
            "Step",
            "Optimizer steps done, and to do.",
            "none",
            {
                "{{run}}/{{stage}}": f"max by (namespace, run, stage) (trainyard_run_step{{{RUN}}})",
                "{{run}}/{{stage}} of": f"max by (namespace, run, stage) (trainyard_steps{{{RUN}}})",
            },
        ),
        Panel(
            "Loss",
            "Mean loss per token in nats, of the last global batch and of the held-out sequences.",
            "none",
            {
                "{{run}}/{{stage}}": f"max by (namespace, run, stage) (trainyard_loss{{{RUN}}})",
                "{{run}}/{{stage}} held out": f"max by (namespace, run, stage) (trainyard_held_out_loss{{{RUN}}})",
                "{{run}}/{{stage}} in status": f"max by (namespace, run, stage) (trainyard_run_loss{{{RUN}}})",
            },
        ),
        Panel(
            "Tokens per second",
            "Over all ranks of the run.",
            "short",
            {"{{run}}/{{stage}}": f"max by (namespace, run, stage) (trainyard_tokens_per_second{{{RUN}}})"},
        ),
        Panel(
            "Step time",
            "Seconds for one optimizer step.",
            "s",
            {"{{run}}/{{stage}}": f"max by (namespace, run, stage) (trainyard_step_seconds{{{RUN}}})"},
        ),
        Panel(
            "What a step is spent on",
            "Seconds of rank 0's last step; backward passes exchange gradients on the way.",
            "s",
            {
                f"{{{{run}}}}/{{{{stage}}}} {part}": "max by (namespace, run, stage) "
                f"(trainyard_step_{part}_seconds{{{RUN}}})"
                for part in (
                    "data",
                    "generate",
                    "score",
                    "push",
                    "forward",
                    "backward",
                    "optimizer",
                    "checkpoint",
                    "wait",
                )
            },
        ),
        Panel(
            "Model FLOPs utilisation",
            "FLOPs of the model for the tokens of a second, to the peak of all ranks' devices, where that is known.",
            "percentunit",
            {"{{run}}/{{stage}}": f"max by (namespace, run, stage) (trainyard_mfu{{{RUN}}})"},
        ),
        Panel(
            "Memory of rank 0",
            "At most so far: allocated on its GPU, or resident.",
            "bytes",
            {"{{run}}/{{stage}}": f"max by (namespace, run, stage) (trainyard_memory_bytes{{{RUN}}})"},
        ),
        Panel(
            "Tokens trained on",
            "Since the run's first step, over all ranks.",
            "short",
            {"{{run}}/{{stage}}": f"max by (namespace, run, stage) (trainyard_tokens_total{{{RUN}}})"},
        ),
    ],
    "Checkpoints": [
        Panel(
            "Checkpoint age",
            "Work that a failure now would cost.",
            "s",
            {"{{run}}/{{stage}}": f"max by (namespace, run, stage) (trainyard_run_checkpoint_age_seconds{{{RUN}}})"},
        ),
        Panel(
            "Checkpoint written",
            "Seconds since the agent of rank 0 saw a checkpoint committed.",
            "s",
            {
                "{{run}}/{{stage}}": "time() - max by (namespace, run, stage) "
                f"(trainyard_checkpoint_timestamp_seconds{{{RUN}}})"
            },
        ),
        Panel(
            "Checkpoint stall",
            "Seconds for which training stood still for the last checkpoint.",
            "s",
            {"{{run}}/{{stage}}": f"max by (namespace, run, stage) (trainyard_checkpoint_stall_seconds{{{RUN}}})"},
        ),
    ],
    "Recovery": [
        Panel(
            "Restarts by cause",
            "Recoveries in the interval, over all runs: hangs, silent agents, lost nodes, roll-backs and the others.",
            "none",
            {"{{cause}}": "sum by (cause) (increase(trainyard_restarts_total[$__rate_interval]))"},
        ),
        Panel(
            "Restarts by tier",
            "How much of a group recoveries make anew: ranks alone, the pods that are gone, or all of it.",
            "none",
            {"{{tier}}": "sum by (tier) (increase(trainyard_restarts_total[$__rate_interval]))"},
        ),
        Panel(
            "Time to recover",
            "90th percentile by tier and part: until the operator knew (detect), and until all ranks ran again (reform).",
            "s",
            {
                "{{tier}} {{part}}": "histogram_quantile(0.9, sum by (le, tier, part) "
                "(rate(trainyard_recovery_seconds_bucket[$__rate_interval])))"
            },
        ),
        Panel(
            "Steps lost",
            "Steps that had to be done again.",
            "none",
            {"steps": "sum(increase(trainyard_lost_steps_total[$__rate_interval]))"},
        ),
        Panel(
            "Snapshot memory",
            "Of all agents: what ranks would go on from, their own and copies of another worker's.",
            "bytes",
            {
                "{{run}} own": f"sum by (namespace, run) (trainyard_snapshot_slot_bytes{{{RUN}}})",
                "{{run}} copies": f"sum by (namespace, run) (trainyard_snapshot_copy_bytes{{{RUN}}})",
            },
        ),
        Panel(
            "Nodes kept off",
            "Nodes that runs keep off after failures; `trainyard nodes` says which, and why.",
            "none",
            {"{{run}}": f"max by (namespace, run) (trainyard_run_excluded_nodes{{{RUN}}})"},
        ),
    ],
    "Ranks and numbers": [
        Panel(
            "Stragglers",
            "Ranks that are persistently slower than the others; the status says which, and on which node.",
            "none",
            {"{{run}}": f"max by (namespace, run) (trainyard_run_stragglers{{{RUN}}})"},
        ),
        Panel(
            "A rank's own part of a step",
            "Without waiting for others: the median and the slowest of a run's ranks.",
            "s",
            {
                "{{run}} median": f"quantile by (namespace, run) (0.5, trainyard_rank_own_seconds{{{RUN}}})",
                "{{run}} slowest": f"max by (namespace, run) (trainyard_rank_own_seconds{{{RUN}}})",
            },
        ),
        Panel(
            "Gradient norm",
            "Of the last step, before clipping.",
            "none",
            {"{{run}}/{{stage}}": f"max by (namespace, run, stage) (trainyard_grad_norm{{{RUN}}})"},
        ),
        Panel(
            "Batches left out",
            "Because of their numbers, since the stage began; roll-backs are among the restarts.",
            "none",
            {"{{run}}/{{stage}}": f"max by (namespace, run, stage) (trainyard_skipped_batches_total{{{RUN}}})"},
        ),
        Panel(
            "Saves that failed or came due too early",
            "In this attempt: storage did not take them, or the save before was still under way.",
            "none",
            {
                "{{run}} failed": f"max by (namespace, run) (trainyard_checkpoint_failed{{{RUN}}})",
                "{{run}} skipped": f"max by (namespace, run) (trainyard_checkpoint_skipped{{{RUN}}})",
            },
        ),
    ],
    "Operator": [
        Panel(
            "Leader",
            "1 for the operator that acts.",
            "none",
            {
                "{{instance}}": "max by (instance, name) (leader_election_master_status "
                "and on (instance, job) trainyard_loop_lag_seconds)"
            },
        ),
        Panel(
            "Signs of life",
            "How late the event loop is, and since when the quietest watch has said nothing.",
            "s",
            {
                "{{instance}} loop": "max by (instance) (trainyard_loop_lag_seconds)",
                "{{instance}} watch": "max by (instance) (trainyard_watch_age_seconds)",
            },
        ),
        Panel(
            "Work queue",
            "Runs that wait to be looked at.",
            "none",
            {"{{name}}": "max by (name) (workqueue_depth)"},
        ),
        Panel(
            "Retries",
            "Passes over a run that failed, and are tried again, a second.",
            "reqps",
            {"{{name}}": "sum by (name) (rate(workqueue_retries_total[$__rate_interval]))"},
        ),
        Panel(
            "Requests to the API server",
            "By answer and method, a second.",
            "reqps",
            {"{{method}} {{code}}": "sum by (code, method) (rate(rest_client_requests_total[$__rate_interval]))"},
        ),
    ],
}


def dashboard() -> dict[str, Any]:
    """The dashboard as Grafana imports it."""
    return {
        "uid": "trainyard",
        "title": "Trainyard",
        "tags": ["trainyard"],
        "schemaVersion": 39,
        "editable": True,
        "refresh": "10s",
        "time": {"from": "now-1h", "to": "now"},
        "templating": {
            "list": [
                {"name": "datasource", "label": "Data source", "type": "datasource", "query": "prometheus"},
                _variable("namespace", "Namespace", "label_values(trainyard_run_info, namespace)"),
                _variable("run", "Run", 'label_values(trainyard_run_info{namespace=~"$namespace"}, run)'),
            ]
        },
        "panels": _panels(),
    }


def _variable(name: str, label: str, query: str) -> dict[str, Any]:
    return {
        "name": name,
        "label": label,
        "type": "query",
        "datasource": DATASOURCE,
        "query": {"query": query, "refId": name},
        "refresh": 2,
        "includeAll": True,
        "allValue": ".*",
        "multi": True,
        "current": {"text": ["All"], "value": ["$__all"]},
    }


def _panels() -> list[dict[str, Any]]:
    """Rows below each other; panels from left to right, 24 columns wide, 8 high."""
    panels: list[dict[str, Any]] = []
    y = 0
    for title, row in ROWS.items():
        panels.append(
            {"id": len(panels) + 1, "type": "row", "title": title, "gridPos": {"x": 0, "y": y, "w": 24, "h": 1}}
        )
        x, y = 0, y + 1
        for panel in row:
            if x + panel.width > 24:
                x, y = 0, y + 8
            place = {"x": x, "y": y, "w": panel.width, "h": 8}
            panels.append(_panel(len(panels) + 1, panel, place))
            x += panel.width
        y += 8
    return panels


def _panel(number: int, panel: Panel, place: dict[str, int]) -> dict[str, Any]:
    table = panel.kind == "table"
    shown = {"transformations": [_TABLE_COLUMNS]} if table else {}
    return {
        "id": number,
        "type": panel.kind,
        "title": panel.title,
        "description": panel.description,
        "datasource": DATASOURCE,
        "gridPos": place,
        "fieldConfig": {"defaults": {"unit": panel.unit}, "overrides": []},
        "targets": [
            {
                "refId": chr(ord("A") + i),
                "datasource": DATASOURCE,
                "expr": query,
                "legendFormat": legend,
                "instant": table,
                "format": "table" if table else "time_series",
            }
            for i, (legend, query) in enumerate(panel.queries.items())
        ],
        **shown,
    }


_TABLE_COLUMNS = {"id": "organize", "options": {"excludeByName": {"Time": True, "Value": True}}}


def generated() -> str:
    """The committed file's text."""
    return json.dumps(dashboard(), indent=1) + "\n"


if __name__ == "__main__":
    OUTPUT.write_text(generated(), encoding="utf-8")
    print(OUTPUT.relative_to(Path.cwd()))
