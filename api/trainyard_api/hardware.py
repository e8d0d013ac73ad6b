"""What GPUs can do, hold, draw and cost: for plans before a run, and for the model FLOPs utilisation (MFU) while it trains.

Peaks are those of the makers' data sheets for dense matrices, without sparsity, accumulated in fp32. Prices are what
specialised clouds asked on demand for a GPU and hour in May 2026, the middle of the range that
mercatus-ai.com/blog/cloud-gpu-pricing lists; where that names none there is none, and `--price` gives one. A file of the
user's own adds to the table and overrides it.
"""

from collections.abc import Mapping
from typing import Annotated

from pydantic import Field, StringConstraints

from .model import Model
from .quantity import Quantity, whole


class Hardware(Model):
    """One kind of device that a rank runs on. A file of them is a YAML object: name → these fields."""

    bf16_flops: Annotated[float, Field(gt=0)]
    """Peak of bf16 matrix multiplications, in FLOP a second."""
    fp32_flops: Annotated[float, Field(gt=0)] | None = None
    """Peak in fp32, without TF32; a sixteenth of bf16's where left out."""
    memory: Quantity
    """Of one device."""
    watts: Annotated[float, Field(gt=0)]
    """It draws at most (TDP)."""
    price_per_hour: Annotated[float, Field(ge=0)] | None = None
    """In dollars."""
    source: Annotated[str, StringConstraints(max_length=500)] = ""
    """Where the figures are from."""
    device_names: list[str] = []
    """What drivers call it, to the letter: a slice of one (MIG) or another variant has another peak."""

    @property
    def memory_bytes(self) -> int:
        """Of one device."""
        return whole(self.memory)

    def peak(self, *, bf16: bool) -> float:
        """FLOP a second at most."""
        return self.bf16_flops if bf16 else self.fp32_flops or self.bf16_flops / 16


def _nvidia(sheet: str) -> str:
    return f"NVIDIA {sheet} data sheet"


HARDWARE: dict[str, Hardware] = {
    "b200": Hardware(
        bf16_flops=2.25e15,
        fp32_flops=75e12,
        memory="180G",
        watts=1000,
        source=_nvidia("DGX B200"),
        device_names=["NVIDIA B200"],
    ),
    "h200": Hardware(
        bf16_flops=989.4e12,
        fp32_flops=66.9e12,
        memory="141G",
        watts=700,
        price_per_hour=4.0,
        source=_nvidia("H200 SXM"),
        device_names=["NVIDIA H200"],
    ),
    "h100": Hardware(
        bf16_flops=989.4e12,
        fp32_flops=66.9e12,
        memory="80Gi",
        watts=700,
        price_per_hour=3.0,
        source=_nvidia("H100 SXM5"),
        device_names=["NVIDIA H100 80GB HBM3"],
    ),
    "h100-nvl": Hardware(
        bf16_flops=835.5e12,
        fp32_flops=60e12,
        memory="94G",
        watts=400,
        source=_nvidia("H100 NVL"),
        device_names=["NVIDIA H100 NVL"],
    ),
    "h100-pcie": Hardware(
        bf16_flops=756e12,
        fp32_flops=51e12,
        memory="80Gi",
        watts=350,
        source=_nvidia("H100 PCIe"),
        device_names=["NVIDIA H100 PCIe"],
    ),
    "a100-80gb": Hardware(
        bf16_flops=312e12,
        fp32_flops=19.5e12,
        memory="80Gi",
        watts=400,
        price_per_hour=1.3,
        source=_nvidia("A100 80GB SXM"),
        device_names=["NVIDIA A100-SXM4-80GB", "NVIDIA A100 80GB PCIe"],
    ),
    "a100-40gb": Hardware(
        bf16_flops=312e12,
        fp32_flops=19.5e12,
        memory="40Gi",
        watts=400,
        source=_nvidia("A100 40GB SXM"),
        device_names=["NVIDIA A100-SXM4-40GB", "NVIDIA A100-PCIE-40GB"],
    ),
    "l40s": Hardware(
        bf16_flops=362.05e12,
        fp32_flops=91.6e12,
        memory="48G",
        watts=350,
        source=_nvidia("L40S"),
        device_names=["NVIDIA L40S"],
    ),
    "l4": Hardware(
        bf16_flops=121e12, fp32_flops=30.3e12, memory="24G", watts=72, source=_nvidia("L4"), device_names=["NVIDIA L4"]
    ),
    "rtx-4090": Hardware(
        bf16_flops=165.2e12,
        fp32_flops=82.6e12,
        memory="24G",
        watts=450,
        source="NVIDIA Ada GPU architecture white paper, appendix A",
        device_names=["NVIDIA GeForce RTX 4090"],
    ),
    "mi300x": Hardware(
        bf16_flops=1307.4e12,
        fp32_flops=163.4e12,
        memory="192G",
        watts=750,
        source="AMD Instinct MI300X data sheet",
        device_names=["AMD Instinct MI300X"],
    ),
}
"""Name, as `--hardware` takes it → what it is."""


def of_device(name: str, table: Mapping[str, Hardware] = HARDWARE) -> Hardware | None:
    """What a device is that its driver calls so; None for one that the table doesn't know."""
    return next((each for each in table.values() if name in each.device_names), None)
