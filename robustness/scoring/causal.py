"""Causal language modelling: every token from those before it."""

import numpy as np
from numpy.typing import NDArray

from robustness.scoring.block import ScoredBlock


def causal_block(ids: NDArray[np.int64], *, given: int = 1) -> ScoredBlock:
    """Every token of a text block but the first, each predicted from those before it.

    Args:
        ids: tokens, shape (T,).
        given: tokens at the beginning that are not scored: the first, or a context of more.
    """
    return ScoredBlock(ids=ids, positions=np.arange(given - 1, len(ids) - 1), targets=ids[given:])
