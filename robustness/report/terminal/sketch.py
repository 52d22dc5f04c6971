"""Small pictures of numbers over layers or steps, in one line of text."""

import math
from collections.abc import Sequence

BARS = "▁▂▃▄▅▆▇█"
LEVELS = (1.0, 2.0, 3.0, 5.0, 8.0, 12.0, 20.0)
"""Standard deviations from which the next bar is taken; the third is what most rules ask for."""

WIDTH = 48


def sketch(z: Sequence[float], *, width: int = WIDTH, unicode: bool = True) -> str:
    """Return one sign for each number, or for several where they do not fit: how far out it lies.

    Args:
        z: distances in standard deviations; NaN where there is none.
        width: signs at most.
        unicode: bars; else digits: whole standard deviations, 9 for more.
    """
    cells = per_sign(len(z), width)
    parts = (z[start : start + cells] for start in range(0, len(z), cells))
    return "".join(_sign(_furthest(part), unicode=unicode) for part in parts)


def per_sign(n: int, width: int = WIDTH) -> int:
    """How many numbers one sign stands for."""
    return max(1, math.ceil(n / width))


def legend(*, unicode: bool = True) -> str:
    """What the signs mean."""
    if not unicode:
        return "signs: distance from the layer's mean in whole std, 9 for more"
    bounds = ", ".join(f"{sign} {level:g}" for sign, level in zip(BARS[1:], LEVELS, strict=True))
    return f"bars: distance from the layer's mean, in std from {bounds}"


def _furthest(values: Sequence[float]) -> float:
    distances = [abs(value) for value in values if not math.isnan(value)]
    return max(distances, default=math.nan)


def _sign(z: float, *, unicode: bool) -> str:
    if math.isnan(z):
        return " "
    if not unicode:
        return str(min(9, int(z)))
    return BARS[sum(z >= level for level in LEVELS)]
