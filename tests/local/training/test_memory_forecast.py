"""What `trainyard plan` says of memory, held against real ranks: within 15 %."""

from pathlib import Path
from typing import Any

import pytest
from memory_forecasts import forecast, measured, stage

CASES = {
    "one rank in fp32": (1, stage(zero=0, ranks=1, micro_batch=6)),
    "two ranks in bf16 with ZeRO 2": (2, stage(zero=2, ranks=2, micro_batch=2, bf16=True)),
}


@pytest.mark.parametrize(("ranks", "settings"), CASES.values(), ids=CASES)
def test_memory_is_within_15_percent_of_the_plan(
    ranks: int, settings: dict[str, Any], corpus: Path, tmp_path: Path
) -> None:
    assert measured(settings, ranks, corpus, tmp_path / "base") == pytest.approx(forecast(settings, ranks), rel=0.15)
