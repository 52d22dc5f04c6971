"""How a decision narrowed while text blocks were read: the decisions that led to a verdict."""

from collections.abc import Sequence

import numpy as np

from robustness.statistics.figures import HistoryEntry

MOST_ENTRIES = 64
"""Decisions that are kept of a verdict."""


def thinned(
    entries: Sequence[HistoryEntry], *, most: int = MOST_ENTRIES
) -> tuple[HistoryEntry, ...]:
    """The entries that a report shows: all, or as many as it can, first and last included.

    Of many, half are spread evenly and half evenly on a logarithmic scale: an interval narrows most
    at the beginning. None is changed, and which are left out does not depend on their numbers.
    ``most`` is at least 4.
    """
    n = len(entries)
    if n <= most:
        return tuple(entries)
    spread = [
        *np.linspace(0, n - 1, most // 2),
        *(np.geomspace(1, n, most - most // 2) - 1),
    ]
    return tuple(entries[index] for index in sorted({round(float(place)) for place in spread}))
