"""Amounts as Kubernetes writes them: "500m", "2", 2, "16Gi"."""

from decimal import Decimal
from typing import Annotated

from pydantic import BeforeValidator, StringConstraints, WithJsonSchema

PATTERN = r"^[0-9]+(\.[0-9]+)?(m|k|M|G|T|Ki|Mi|Gi|Ti)?$"
Quantity = Annotated[
    str,
    StringConstraints(pattern=PATTERN, max_length=20),
    BeforeValidator(lambda given: str(given) if type(given) is int else given),
    WithJsonSchema({"x-kubernetes-int-or-string": True, "pattern": PATTERN, "maxLength": 20, "minimum": 0}),
]
"""An amount as in pods: "500m", "2", 2, "16Gi"."""

_UNITS = {"m": Decimal("0.001")}
_UNITS |= {unit: Decimal(1000) ** power for power, unit in enumerate("kMGT", start=1)}
_UNITS |= {f"{unit}i": Decimal(1024) ** power for power, unit in enumerate("KMGT", start=1)}


def whole(quantity: str) -> int:
    """The amount as a whole number of what it counts, most often bytes; what is left over is dropped."""
    number = quantity.rstrip("".join(_UNITS))
    return int(Decimal(number) * _UNITS.get(quantity.removeprefix(number), Decimal(1)))
