"""docs/models.md names modules and settings that transformers has."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from families import FAMILIES
from trainyard_api.objectives import OBJECTIVES
from trainyard_api.training_stages import ModelSettings
from trainyard_trainer.models.build import build_model, model_config

PAGE = Path(__file__).parents[3] / "docs/models.md"


def rows(family: str) -> Iterator[list[str]]:
    """The cells after the family's name, of its row in each table."""
    for line in PAGE.read_text().splitlines():
        if line.startswith(f"| `{family}` |"):
            yield [cell.strip() for cell in line.split("|")[2:-1]]


@pytest.mark.parametrize("family", FAMILIES)
def test_what_the_tables_name_is_there(family: str) -> None:
    config = model_config(
        ModelSettings.model_validate(FAMILIES[family]), vocab_size=99, end_of_text=0, sequence_length=32
    )
    model = build_model(config, seed=0)
    modules = dict(model.named_modules())
    (kind, model_class, objectives), attention, positions = rows(family)
    assert f"`{type(model).__name__}`" == model_class
    assert re.findall(r"`(\w+)`", objectives) == [*OBJECTIVES[family]]
    encoder, decoder = positions[2:]
    assert bool(encoder) == ("encoder" in kind)
    assert bool(decoder) == ("decoder" in kind)
    named = [
        name for cell in (*attention[:2], positions[0], encoder, decoder) for name in re.findall(r"`([^`]+)`", cell)
    ]
    assert len(named) >= 4
    assert not [name for name in named if name not in modules]
    switches = re.findall(r"`([a-z_]+)`", attention[2] + positions[1].replace("`relu`", ""))
    assert len(switches) >= 3
    assert not [name for name in switches if name != "relu" and not hasattr(config, name)]
