"""One row of a forward pass: the tokens that a model sees, and what it is asked."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, kw_only=True)
class ScoredBlock:
    """One text block as the model sees it, and what it is asked.

    Attributes:
        ids: input tokens, shape (T,).
        positions: positions whose logits are scored, shape (n,): of the input, or of the decoder's
            target where there is one.
        targets: the token that each of these positions has to predict, shape (n,).
        decoder_target: sequence-to-sequence models: the tokens that the decoder is to produce,
            teacher-forced, shape (U,).
        hidden: permutation models: true at input tokens that no position may look at, shape (T,).
    """

    ids: NDArray[np.int64]
    positions: NDArray[np.int64]
    targets: NDArray[np.int64]
    decoder_target: NDArray[np.int64] | None = None
    hidden: NDArray[np.bool_] | None = None

    @property
    def length(self) -> int:
        """Tokens of the input, or of the decoder's target if that is longer."""
        return max(len(self.ids), 0 if self.decoder_target is None else len(self.decoder_target))


@dataclass(frozen=True, kw_only=True, eq=False)
class PlannedChunk:
    """All that a model is asked about the text blocks of a chunk.

    Attributes:
        rows: what it is asked; a text block may be asked about in several rows.
        owner: place in the chunk of the text block that each row is about, shape (rows,).
        n_blocks: text blocks of the chunk.
    """

    rows: tuple[ScoredBlock, ...]
    owner: NDArray[np.int64]
    n_blocks: int

    @classmethod
    def of(cls, groups: Sequence[Sequence[ScoredBlock]]) -> "PlannedChunk":
        """Put the rows of each text block one after the other."""
        return cls(
            rows=tuple(row for group in groups for row in group),
            owner=np.repeat(np.arange(len(groups)), [len(group) for group in groups]),
            n_blocks=len(groups),
        )

    @property
    def tokens(self) -> NDArray[np.int64]:
        """Scored tokens of each text block, shape (n_blocks,)."""
        counts = np.zeros(self.n_blocks, dtype=np.int64)
        np.add.at(counts, self.owner, [len(row.targets) for row in self.rows])
        return counts
