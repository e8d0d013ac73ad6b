"""Renders the chart to manifests/install.yaml, for those who have kubectl alone. Run by `make generate`.

The file is public, so it holds no key: its user makes one, as the file's head says. `helm test` and the notes stay out.
"""

from pathlib import Path

import helm_python

CHART = Path(__file__).parent / "trainyard"
OUTPUT = Path(__file__).parent.parent / "manifests" / "install.yaml"
NAMESPACE = "trainyard-system"
HEAD = f"""\
# Trainyard, rendered from charts/trainyard by `make generate`; change the chart instead.
#   kubectl create namespace {NAMESPACE}
#   kubectl -n {NAMESPACE} create secret generic trainyard-key --from-literal=key="$(openssl rand -hex 32)"
#   kubectl apply --server-side -f manifests/install.yaml
"""


def generated() -> str:
    """The committed file's text: every object of a default installation, but the key and the test."""
    with helm_python.Chart.load(CHART) as chart:
        values = {"key": {"existingSecret": "trainyard-key"}}
        rendered = chart.render(values, name="trainyard", namespace=NAMESPACE)
    parts = [
        text.strip().removeprefix("---").strip()
        for name, text in sorted(rendered.items())
        if name.endswith(".yaml") and "/templates/tests/" not in name and text.strip()
    ]
    return HEAD + "".join(f"---\n{part}\n" for part in parts)


if __name__ == "__main__":
    OUTPUT.write_text(generated(), encoding="utf-8")
    print(OUTPUT.relative_to(Path.cwd()))
