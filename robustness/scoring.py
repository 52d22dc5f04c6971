"""What a model is asked about a text block: masked and causal language modelling."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from robustness.sampling import masked_positions

Scoring = Literal["masked", "causal"]


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


def masked_block(
    ids: NDArray[np.int64],
    special: NDArray[np.bool_],
    *,
    mask_id: int,
    seed: int,
    fingerprint: str,
    block: int,
) -> ScoredBlock:
    """Masked LM: 15 % of the non-special tokens, all replaced by the mask token."""
    positions = masked_positions(special, seed=seed, fingerprint=fingerprint, block=block)
    corrupted = ids.copy()
    corrupted[positions] = mask_id
    return ScoredBlock(ids=corrupted, positions=positions, targets=ids[positions])


def causal_block(ids: NDArray[np.int64]) -> ScoredBlock:
    """Causal LM: every token but the first, each predicted from those before it."""
    return ScoredBlock(ids=ids, positions=np.arange(len(ids) - 1), targets=ids[1:])
