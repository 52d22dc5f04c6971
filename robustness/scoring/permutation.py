"""Permutation language modelling: a token from all others, without a mask token.

A permutation model (Yang et al. 2019, XLNet) is told which tokens nobody may look at, and predicts
them from all that remain. Two tokens cannot both be predicted from all others in one pass: what one
of them looks at has looked at the other. Every scored token therefore has a row of its own.
"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from robustness.scoring.block import ScoredBlock
from robustness.scoring.masked import Masking, hidden_one_by_one
from robustness.scoring.sampling import masked_positions


def permutation_rows(
    ids: NDArray[np.int64],
    special: NDArray[np.bool_],
    *,
    masking: Masking,
    words: NDArray[np.int64] | None,
    seed: int,
    fingerprint: str,
    block: int,
) -> Iterator[ScoredBlock]:
    """What a permutation model is asked about one text block, one token per row.

    Args:
        ids: tokens, shape (T,).
        special: true at special tokens, which are never scored, shape (T,).
        masking: ``all``: the tokens that a masked language model is asked for; ``pll`` and
            ``pll-word-l2r``: all of them.
        words: number of the word that each token belongs to, shape (T,).
        seed: the run's seed.
        fingerprint: the corpus' fingerprint.
        block: index of the text block in the corpus.
    """
    asked = set(np.flatnonzero(~special).tolist())
    if masking == "all":
        asked = set(
            masked_positions(special, seed=seed, fingerprint=fingerprint, block=block).tolist()
        )
    for position, hidden in hidden_one_by_one(special, masking=masking, words=words):
        if position in asked:
            yield ScoredBlock(
                ids=ids,
                positions=np.array([position]),
                targets=ids[[position]],
                hidden=hidden,
            )
