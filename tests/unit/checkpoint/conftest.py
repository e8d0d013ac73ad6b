"""One rank in the tests' own process, connected with itself: the same collectives as with a thousand."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from training import TINY, a_corpus, a_job
from trainyard_trainer.engine import processes
from trainyard_trainer.group import Group


@pytest.fixture(scope="session")
def device() -> Iterator[torch.device]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MASTER_ADDR", "127.0.0.1")
        patch.setenv("MASTER_PORT", "0")
        patch.setenv("GLOO_SOCKET_IFNAME", "lo")
        patch.setenv("LOCAL_RANK", "0")
        with patch.context() as hidden:
            hidden.setenv("PATH", "/nowhere")  # nor a compiler: joining is not to build anything
            device = processes.join(a_group(Path("/storage/base"), Path("/storage/corpus")))
        yield device
        processes.leave()


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return a_corpus(tmp_path_factory.mktemp("prepared"))


def a_group(output: Path, corpus: Path) -> Group:
    job = a_job("pretrain", output, TINY, {"data": corpus})
    return Group(job, attempt=1, rank=0, world_size=1, local_rank=0, output=output, inputs={"data": corpus})


@pytest.fixture
def group(tmp_path: Path, corpus: Path) -> Group:
    return a_group(tmp_path, corpus)
