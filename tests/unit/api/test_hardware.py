"""Which GPU it is that a driver names so."""

import pytest
from trainyard_api.hardware import HARDWARE, of_device

CASES = {
    "NVIDIA H100 80GB HBM3": "h100",
    "NVIDIA H100 PCIe": "h100-pcie",
    "NVIDIA H100 NVL": "h100-nvl",
    "NVIDIA H200": "h200",
    "NVIDIA A100-SXM4-80GB": "a100-80gb",
    "NVIDIA A100 80GB PCIe": "a100-80gb",
    "NVIDIA A100-SXM4-40GB": "a100-40gb",
    "NVIDIA L4": "l4",
    "NVIDIA L40S": "l40s",
    "NVIDIA GeForce RTX 4090": "rtx-4090",
    "NVIDIA L40": None,
    "NVIDIA H100 80GB HBM3 MIG 1g.10gb": None,
    "Tesla V100-SXM2-32GB": None,
}


@pytest.mark.parametrize(("name", "known"), CASES.items())
def test_a_device_is_known_by_its_name(name: str, known: str | None) -> None:
    assert of_device(name) is (HARDWARE[known] if known else None)


def test_every_entry_has_a_source_and_less_in_fp32_than_in_bf16() -> None:
    for each in HARDWARE.values():
        assert each.source
        assert each.peak(bf16=False) < each.peak(bf16=True)
