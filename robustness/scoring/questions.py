"""What is asked about each text block of a corpus: the way of scoring, chosen once."""

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from robustness.checkpoint.tokenization import sentinels
from robustness.errors import CorpusError
from robustness.scoring.block import TextBlock, causal_block
from robustness.scoring.masked import masked_rows, permutation_rows
from robustness.scoring.options import ScoringOptions
from robustness.scoring.replaced import replaced_block, unigram_replacements
from robustness.scoring.sampling import BlockSeed
from robustness.scoring.seq2seq import infilling_block, span_block

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from robustness.checkpoint.architecture import Scoring
    from robustness.corpus.blocks import TextBlocks
    from robustness.scoring.block import ScoredBlock


@dataclass(kw_only=True, eq=False, repr=False)
class Questions:
    """The questions of one measurement.

    ``generated`` gives a generator's tokens for the masked positions of a text block; without, a
    discriminator's tokens are drawn from the corpus.
    """

    scoring: "Scoring"
    options: ScoringOptions
    blocks: "TextBlocks"
    tokenizer: Any
    seed: int
    fingerprint: str
    generated: "Callable[[int], NDArray[np.int64]] | None" = None

    def require_answerable(self) -> None:
        """Find out before anything is measured that the tokenizer does not tell enough."""
        if self.options.masking == "pll-word-l2r" and self.blocks.words is None:
            raise CorpusError(
                "masking pll-word-l2r needs to know which tokens form a word, and this tokenizer "
                "does not tell: use masking pll, or save the tokenizer as a fast one"
            )

    def rows(self, number: int) -> "Sequence[ScoredBlock]":
        """What the model is asked about one text block; its NLL is the sum over these rows."""
        return list(self._rows(number))

    def _rows(self, number: int) -> "Iterable[ScoredBlock]":
        block, masking = self.block(number), self.options.masking
        if self.scoring == "causal":
            return [causal_block(block.ids, given=block.given)]
        if self.scoring == "permutation":
            return permutation_rows(block, masking=masking)
        if self.scoring == "replaced-token":
            return [replaced_block(block, replacements=self._replacements(block))]
        if self.scoring == "seq2seq":
            if marks := self._sentinels:
                suffix = block.ids[np.flatnonzero(~block.special)[-1] + 1 :]
                return [span_block(block, sentinels=marks, suffix=suffix)]
            return [infilling_block(block, mask_id=self.tokenizer.mask_token_id)]
        mask_id, vocabulary = self.tokenizer.mask_token_id, self._ordinary_tokens
        return masked_rows(block, masking=masking, mask_id=mask_id, vocabulary=vocabulary)

    def block(self, number: int) -> TextBlock:
        """A text block of the corpus, by its index there."""
        blocks = self.blocks
        return TextBlock(
            ids=blocks.ids[number],
            special=blocks.special[number],
            seed=BlockSeed(self.seed, self.fingerprint, number),
            words=None if blocks.words is None else blocks.words[number],
            given=blocks.given[number],
        )

    def _replacements(self, block: TextBlock) -> NDArray[np.int64]:
        if self.generated is not None:
            return self.generated(block.seed.block)
        return unigram_replacements(block, corpus_tokens=self._corpus_tokens)

    @cached_property
    def _corpus_tokens(self) -> NDArray[np.int64]:
        """All tokens of all text blocks that are not special, in their order."""
        pairs = zip(self.blocks.ids, self.blocks.special, strict=True)
        return np.concatenate([ids[~special] for ids, special in pairs])

    @cached_property
    def _sentinels(self) -> list[int]:
        return sentinels(self.tokenizer)

    @cached_property
    def _ordinary_tokens(self) -> list[int]:
        """Ids of the vocabulary that are not special, ascending."""
        special = set(self.tokenizer.all_special_ids)
        return sorted(set(self.tokenizer.get_vocab().values()) - special)
