"""What is generated from the chart and for it is committed as its sources say; `make generate` writes it anew."""

import runpy
from pathlib import Path

import pytest
import yaml
from trainyard_api.run import TrainingRun

GENERATORS = ["charts/dashboard.py", "charts/install_manifest.py"]
EXAMPLES = sorted(Path("manifests/examples").glob("*.yaml"))


@pytest.mark.parametrize("generator", GENERATORS)
def test_is_committed_as_generated(generator: str) -> None:
    module = runpy.run_path(generator)
    assert module["OUTPUT"].read_text(encoding="utf-8") == module["generated"](), "run make generate, and commit"


def test_install_yaml_holds_every_object_but_no_key_and_no_test() -> None:
    kinds = [each["kind"] for each in yaml.safe_load_all(Path("manifests/install.yaml").read_text())]
    assert {"CustomResourceDefinition", "Deployment", "Service", "ServiceAccount", "ClusterRole"} <= set(kinds)
    assert not {"Secret", "Pod"} & set(kinds)


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.name)
def test_every_example_is_a_valid_training_run(example: Path) -> None:
    TrainingRun.model_validate(yaml.safe_load(example.read_text()))
