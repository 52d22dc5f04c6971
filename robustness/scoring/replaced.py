"""Replaced-token detection (Clark et al. 2020, ELECTRA): which tokens are not the original ones.

15 % of a text block's tokens are replaced, and the discriminator is asked about every token. Its
loss is no likelihood of the text, so its exponential is no perplexity.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from robustness.checkpoint.reading import ReadOptions
from robustness.errors import PolicyError
from robustness.scoring.block import ScoredBlock, TextBlock
from robustness.scoring.options import UNIGRAM
from robustness.scoring.sampling import BlockSeed, uniform_index

if TYPE_CHECKING:
    from robustness.checkpoint.checkpoint import Checkpoint


def replaced_block(block: TextBlock, *, replacements: NDArray[np.int64]) -> ScoredBlock:
    """Every token that is not special: was it replaced (1) or is it the original one (0)?

    The replacements stand at the positions that masked scoring would mask, ascending; one that is
    the original token counts as original.
    """
    corrupted, positions = block.ids.copy(), np.flatnonzero(~block.special)
    corrupted[block.masked] = replacements
    replaced = (corrupted != block.ids)[positions].astype(np.int64)
    return ScoredBlock(ids=corrupted, positions=positions, targets=replaced)


def unigram_replacements(
    block: TextBlock, *, corpus_tokens: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Tokens drawn from all of the corpus' tokens that are not special, shape (n,)."""
    n, positions = len(corpus_tokens), block.masked.tolist()
    return corpus_tokens[[uniform_index(n, "replace", *block.seed, each) for each in positions]]


def sampled_tokens(
    logits: NDArray[np.float64],
    positions: Sequence[int],
    *,
    block_seed: BlockSeed,
) -> NDArray[np.int64]:
    """Tokens drawn from a generator's logits (n, V) at some positions (n,), shape (n,).

    They are drawn by inverting the cumulated softmax at numbers that are uniform over [0, 1).
    """
    likely = np.exp(logits - logits.max(axis=1, keepdims=True))
    cumulated = np.cumsum(likely, axis=1)  # (n, V)
    grain = 2**53
    tokens = []
    for row, position in zip(cumulated, positions, strict=True):
        lot = uniform_index(grain, "sample", *block_seed, position) / grain
        tokens.append(int(np.searchsorted(row, lot * row[-1], side="right")))
    return np.array(tokens, dtype=np.int64)


def entropy_nats(share: float) -> float:
    """Loss of the best guess that looks at no text: the base rate's entropy."""
    return -sum(p * float(np.log(p)) for p in (share, 1 - share) if p > 0)


def chosen_generator(
    reference: str, checkpoint: "Checkpoint", *, store_root: Path, options: ReadOptions
) -> "Checkpoint | None":
    """The generator that a policy names; ``None`` where tokens are drawn by their frequency.

    Raises:
        PolicyError: if it is no masked language model, or has another vocabulary.
    """
    if reference == UNIGRAM:
        return None
    from robustness.checkpoint.resolving import resolve

    generator = resolve(reference, cache=store_root, options=options.of_others)
    if (generator.scoring, generator.vocab_size) != ("masked", checkpoint.vocab_size):
        raise PolicyError(
            f"generator {reference!r} is scored {generator.scoring} and has {generator.vocab_size} "
            f"tokens: name a masked language model with the {checkpoint.vocab_size} tokens of "
            f"{checkpoint.label}"
        )
    return generator
