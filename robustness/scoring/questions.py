"""What is asked about each text block of a corpus: the way of scoring, chosen once."""

from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from robustness.errors import CorpusError
from robustness.scoring.causal import causal_block
from robustness.scoring.masked import masked_rows
from robustness.scoring.options import ScoringOptions

if TYPE_CHECKING:
    from collections.abc import Sequence

    from robustness.architecture import Scoring
    from robustness.blocks import TextBlocks
    from robustness.scoring.block import ScoredBlock


class Questions:
    """The questions of one measurement.

    Args:
        scoring: how the checkpoint is scored.
        options: what of it the policy decides.
        blocks: the corpus' text blocks.
        tokenizer: the checkpoint's tokenizer.
        seed: the run's seed.
        fingerprint: the corpus' fingerprint.
    """

    def __init__(
        self,
        *,
        scoring: "Scoring",
        options: ScoringOptions,
        blocks: "TextBlocks",
        tokenizer: Any,
        seed: int,
        fingerprint: str,
    ) -> None:
        self._scoring = scoring
        self._options = options
        self._blocks = blocks
        self._tokenizer = tokenizer
        self._seed = seed
        self._fingerprint = fingerprint

    def require_answerable(self) -> None:
        """Find out before anything is measured that the tokenizer does not tell enough.

        Raises:
            CorpusError: saying what is missing.
        """
        if self._options.masking == "pll-word-l2r" and self._blocks.words is None:
            raise CorpusError(
                "masking pll-word-l2r needs to know which tokens form a word, and this tokenizer "
                "does not tell: use masking pll, or save the tokenizer as a fast one"
            )

    def rows(self, block: int) -> "Sequence[ScoredBlock]":
        """What the model is asked about one text block; its NLL is the sum over these rows.

        Args:
            block: index of the text block in the corpus.
        """
        ids, special = self._blocks.ids[block], self._blocks.special[block]
        if self._scoring == "causal":
            return [causal_block(ids)]
        return list(
            masked_rows(
                ids,
                special,
                masking=self._options.masking,
                mask_id=self._tokenizer.mask_token_id,
                vocabulary=self._ordinary_tokens,
                words=self._words(block),
                seed=self._seed,
                fingerprint=self._fingerprint,
                block=block,
            )
        )

    @cached_property
    def _ordinary_tokens(self) -> list[int]:
        """Ids of the vocabulary that are not special, ascending."""
        special = set(self._tokenizer.all_special_ids)
        return sorted(set(self._tokenizer.get_vocab().values()) - special)

    def _words(self, block: int) -> NDArray[np.int64] | None:
        return None if self._blocks.words is None else self._blocks.words[block]
