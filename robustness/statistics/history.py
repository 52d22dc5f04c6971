"""How a decision narrowed while text blocks were read: the looks that led to a verdict."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from robustness.statistics.decisions import Decision, FactorDecision, MedianDecision

MOST_STEPS = 64
"""Looks that are kept of a verdict."""

Step = dict[str, Any]
"""``text_blocks``, ``ratio``, ``interval`` and, of random draws, ``draws``; plain JSON types."""


def step(look: Decision | MedianDecision | FactorDecision, *, text_blocks: int) -> Step:
    """One look, in the numbers that its verdict would have if it were the last.

    The interval is ``None`` where there is none: the ratio is exact, or of a factor, which is
    described and not estimated.

    Args:
        look: at everything seen so far.
        text_blocks: how many text blocks that is.
    """
    if isinstance(look, MedianDecision):
        low, high = look.interval
        found = {"ratio": look.median, "interval": [low, high], "draws": look.draws}
    elif isinstance(look, FactorDecision):
        found = {"ratio": look.ratio, "interval": None}
    else:
        interval = None if look.interval is None else list(look.interval)
        found = {"ratio": look.ratio, "interval": interval}
    return {"text_blocks": text_blocks, **found}


def course(steps: Sequence[Step], *, most: int = MOST_STEPS) -> tuple[Step, ...]:
    """The steps that a report shows: all of them, or as many as it can, first and last included.

    Of many, half are spread evenly and half evenly on a logarithmic scale: an interval narrows most
    at the beginning. None is changed, and which are left out does not depend on their numbers.

    Args:
        steps: one per look, in their order.
        most: how many at most, at least 4.
    """
    n = len(steps)
    if n <= most:
        return tuple(steps)
    spread = [
        *np.linspace(0, n - 1, most // 2),
        *(np.geomspace(1, n, most - most // 2) - 1),
    ]
    return tuple(steps[index] for index in sorted({round(float(place)) for place in spread}))
