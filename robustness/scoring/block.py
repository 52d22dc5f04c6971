"""One row of a forward pass: the tokens that a model sees, and what it is asked."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, kw_only=True)
class ScoredBlock:
    """One text block as the model sees it, and what it is asked.

    Attributes:
        ids: input tokens, shape (T,).
        positions: positions whose logits are scored, shape (n,).
        targets: the token that each of these positions has to predict, shape (n,).
    """

    ids: NDArray[np.int64]
    positions: NDArray[np.int64]
    targets: NDArray[np.int64]
