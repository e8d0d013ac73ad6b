from pathlib import Path

import pytest
from training import a_corpus


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return a_corpus(tmp_path_factory.mktemp("prepared"))
