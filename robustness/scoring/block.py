"""One row of a forward pass: the tokens that a model sees, and what it is asked."""

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
