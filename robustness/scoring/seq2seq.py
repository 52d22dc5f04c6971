"""Sequence-to-sequence models: the input corrupted as in pre-training, the decoder teacher-forced.

Which corruption a model was trained with shows in its tokenizer. Sentinel tokens mean T5's span
corruption (Raffel et al. 2020): each span of the input becomes a sentinel, and the decoder produces
the spans, each behind its sentinel. A mask token means BART's text infilling (Lewis et al. 2020):
each span becomes one mask token, and the decoder produces the whole text.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from robustness.scoring.block import ScoredBlock, TextBlock
from robustness.scoring.sampling import corrupted_spans

SENTINEL_DENSITY = 0.15
"""Share of the tokens in spans (T5)."""

MASK_DENSITY = 0.3
"""Share of the tokens in spans (BART)."""


def span_block(
    block: TextBlock, *, sentinels: Sequence[int], suffix: NDArray[np.int64]
) -> ScoredBlock:
    """T5: spans of 15 % of the tokens, 3 long on average, become sentinels.

    Scored are the tokens of the spans; sentinels and the suffix that ends the target are not text.
    """
    spans = corrupted_spans(
        block.special, share=SENTINEL_DENSITY, most_spans=len(sentinels), block_seed=block.seed
    )
    target: list[int] = []
    positions: list[int] = []
    for sentinel, (start, end) in zip(sentinels, spans, strict=False):
        target.append(sentinel)
        positions += range(len(target), len(target) + end - start)
        target += block.ids[start:end].tolist()
    labels = np.array([*target, *suffix], dtype=np.int64)
    scored = np.array(positions, dtype=np.int64)
    return ScoredBlock(
        ids=_replaced(block.ids, spans, sentinels),
        positions=scored,
        targets=labels[scored],
        decoder_target=labels,
    )


def infilling_block(block: TextBlock, *, mask_id: int) -> ScoredBlock:
    """BART: spans of 30 % of the tokens, 3 long on average, become one mask token each.

    The decoder produces the whole text block; scored are its tokens that are not special.
    """
    spans = corrupted_spans(block.special, share=MASK_DENSITY, block_seed=block.seed)
    scored = np.flatnonzero(~block.special)
    return ScoredBlock(
        ids=_replaced(block.ids, spans, [mask_id] * len(spans)),
        positions=scored,
        targets=block.ids[scored],
        decoder_target=block.ids,
    )


def _replaced(
    ids: NDArray[np.int64], spans: Sequence[tuple[int, int]], by: Sequence[int]
) -> NDArray[np.int64]:
    """The tokens with one in the place of each span."""
    parts, done = [], 0
    for token, (start, end) in zip(by, spans, strict=False):
        parts += [ids[done:start], np.array([token], dtype=np.int64)]
        done = end
    return np.concatenate([*parts, ids[done:]])
