"""How sure a share of so many is."""

import math

_NORMAL_95 = 1.959964


def wilson(share: float, number: int) -> tuple[float, float]:
    """The 95 % interval of a share of so many (Wilson 1927)."""
    squared = _NORMAL_95**2
    middle = (share + squared / (2 * number)) / (1 + squared / number)
    half = _NORMAL_95 / (1 + squared / number) * math.sqrt(share * (1 - share) / number + squared / (4 * number**2))
    return min(share, max(0.0, middle - half)), max(share, min(1.0, middle + half))
