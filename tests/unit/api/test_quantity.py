import pytest
from trainyard_api.quantity import whole

AMOUNTS = {"2": 2, "2500m": 2, "1.5k": 1500, "16Gi": 16 * 2**30, "3M": 3_000_000, "0": 0, "0.5Ki": 512}


@pytest.mark.parametrize(("written", "meant"), AMOUNTS.items(), ids=AMOUNTS.keys())
def test_a_quantity_counts_what_kubernetes_counts(written: str, meant: int) -> None:
    assert whole(written) == meant
