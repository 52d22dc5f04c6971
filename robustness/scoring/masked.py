"""Masked and permutation language modelling: some tokens of a text block from all others.

``all`` and ``bert`` mask 15 % of the tokens in one row. The pseudo-log-likelihoods ask for every
token, in a row of its own: ``pll`` masks that token alone (Salazar et al. 2020, "Masked Language
Model Scoring"), ``pll-word-l2r`` also the tokens of the same word behind it (Kauf & Ivanova 2023,
"A Better Way to Do Masked Language Model Scoring"), so that a rare word cannot be guessed from its
own last tokens.

A permutation model (Yang et al. 2019, XLNet) has no mask token: it is told which tokens nobody may
look at, and predicts them from all that remain. Two tokens cannot both be predicted from all others
in one pass: what one of them looks at has looked at the other. Every scored token therefore has a
row of its own.
"""

from collections.abc import Iterator, Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from robustness.scoring.block import ScoredBlock, TextBlock
from robustness.scoring.sampling import uniform_index

Masking = Literal["all", "bert", "pll", "pll-word-l2r"]


def masked_rows(
    block: TextBlock, *, masking: Masking, mask_id: int, vocabulary: Sequence[int]
) -> Iterator[ScoredBlock]:
    """What a masked language model is asked about one text block, row by row.

    The vocabulary is what ``bert`` draws random tokens from.
    """
    if masking == "all":
        yield masked_block(block, mask_id=mask_id)
    elif masking == "bert":
        corrupted = block.ids.copy()
        for position in block.masked.tolist():
            lot = uniform_index(10, "bert", *block.seed, position)
            if lot < 8:
                corrupted[position] = mask_id
            elif lot == 8:
                drawn = uniform_index(len(vocabulary), "random", *block.seed, position)
                corrupted[position] = vocabulary[drawn]
        positions = block.masked
        yield ScoredBlock(ids=corrupted, positions=positions, targets=block.ids[positions])
    else:
        for position, hidden in hidden_one_by_one(block, masking):
            yield ScoredBlock(
                ids=np.where(hidden, mask_id, block.ids),
                positions=np.array([position]),
                targets=block.ids[[position]],
            )


def hidden_one_by_one(
    block: TextBlock, masking: Masking
) -> Iterator[tuple[int, NDArray[np.bool_]]]:
    """Every position that is not special, and what is hidden when it is scored, shape (T,)."""
    place, words = np.arange(len(block.special)), block.words
    for position in np.flatnonzero(~block.special).tolist():
        hidden = place == position
        if masking == "pll-word-l2r":
            assert words is not None
            hidden |= (words == words[position]) & (place > position) & ~block.special
        yield position, hidden


def masked_block(block: TextBlock, *, mask_id: int) -> ScoredBlock:
    """Masked LM: 15 % of the non-special tokens, all replaced by the mask token."""
    positions, corrupted = block.masked, block.ids.copy()
    corrupted[positions] = mask_id
    return ScoredBlock(ids=corrupted, positions=positions, targets=block.ids[positions])


def permutation_rows(block: TextBlock, *, masking: Masking) -> Iterator[ScoredBlock]:
    """What a permutation model is asked about one text block, one token per row.

    With the masking ``all``, these are the tokens that a masked language model is asked for; with
    ``pll`` and ``pll-word-l2r`` all of them.
    """
    scored = set(block.masked.tolist()) if masking == "all" else set()
    for position, hidden in hidden_one_by_one(block, masking):
        if masking != "all" or position in scored:
            yield ScoredBlock(
                ids=block.ids,
                positions=np.array([position]),
                targets=block.ids[[position]],
                hidden=hidden,
            )
