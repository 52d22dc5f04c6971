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

from robustness.scoring.block import ScoredBlock
from robustness.scoring.sampling import BlockSeed, masked_positions, uniform_index

Masking = Literal["all", "bert", "pll", "pll-word-l2r"]


def masked_rows(
    ids: NDArray[np.int64],
    special: NDArray[np.bool_],
    *,
    masking: Masking,
    mask_id: int,
    vocabulary: Sequence[int],
    words: NDArray[np.int64] | None,
    block_seed: BlockSeed,
) -> Iterator[ScoredBlock]:
    """What a masked language model is asked about one text block, row by row.

    Args:
        ids: tokens, shape (T,).
        special: true at special tokens, which are never masked, shape (T,).
        masking: which tokens are masked, and how.
        mask_id: the mask token.
        vocabulary: the ids that ``bert`` draws random tokens from.
        words: number of the word that each token belongs to, shape (T,); needed for
            ``pll-word-l2r`` alone.
        block_seed: what its random choices depend on.
    """
    if masking == "all":
        yield masked_block(ids, special, mask_id=mask_id, block_seed=block_seed)
        return
    if masking == "bert":
        positions = masked_positions(special, block_seed=block_seed)
        corrupted = ids.copy()
        for position in positions.tolist():
            lot = uniform_index(10, "bert", *block_seed, position)
            if lot < 8:
                corrupted[position] = mask_id
            elif lot == 8:
                drawn = uniform_index(len(vocabulary), "random", *block_seed, position)
                corrupted[position] = vocabulary[drawn]
        yield ScoredBlock(ids=corrupted, positions=positions, targets=ids[positions])
        return
    for position, hidden in hidden_one_by_one(special, masking=masking, words=words):
        yield ScoredBlock(
            ids=np.where(hidden, mask_id, ids),
            positions=np.array([position]),
            targets=ids[[position]],
        )


def hidden_one_by_one(
    special: NDArray[np.bool_], *, masking: Masking, words: NDArray[np.int64] | None
) -> Iterator[tuple[int, NDArray[np.bool_]]]:
    """Every position that is not special, and what is hidden when it is scored, shape (T,)."""
    place = np.arange(len(special))
    for position in np.flatnonzero(~special).tolist():
        hidden = place == position
        if masking == "pll-word-l2r":
            assert words is not None
            hidden |= (words == words[position]) & (place > position) & ~special
        yield position, hidden


def masked_block(
    ids: NDArray[np.int64],
    special: NDArray[np.bool_],
    *,
    mask_id: int,
    block_seed: BlockSeed,
) -> ScoredBlock:
    """Masked LM: 15 % of the non-special tokens, all replaced by the mask token."""
    positions = masked_positions(special, block_seed=block_seed)
    corrupted = ids.copy()
    corrupted[positions] = mask_id
    return ScoredBlock(ids=corrupted, positions=positions, targets=ids[positions])


def permutation_rows(
    ids: NDArray[np.int64],
    special: NDArray[np.bool_],
    *,
    masking: Masking,
    words: NDArray[np.int64] | None,
    block_seed: BlockSeed,
) -> Iterator[ScoredBlock]:
    """What a permutation model is asked about one text block, one token per row.

    With the masking ``all``, these are the tokens that a masked language model is asked for; with
    ``pll`` and ``pll-word-l2r`` all of them. For the rest see :func:`masked_rows`.
    """
    scored = set(np.flatnonzero(~special).tolist())
    if masking == "all":
        scored = set(masked_positions(special, block_seed=block_seed).tolist())
    for position, hidden in hidden_one_by_one(special, masking=masking, words=words):
        if position in scored:
            yield ScoredBlock(
                ids=ids,
                positions=np.array([position]),
                targets=ids[[position]],
                hidden=hidden,
            )
