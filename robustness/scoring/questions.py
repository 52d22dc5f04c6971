"""What is asked about each text block of a corpus: the way of scoring, chosen once."""

from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from robustness.checkpoint.tokenization import sentinels
from robustness.errors import CorpusError
from robustness.scoring.block import causal_block
from robustness.scoring.masked import masked_block, masked_rows, permutation_rows
from robustness.scoring.options import ScoringOptions
from robustness.scoring.replaced import replaced_block, unigram_replacements
from robustness.scoring.sampling import BlockSeed
from robustness.scoring.seq2seq import infilling_block, span_block

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from robustness.checkpoint.architecture import Scoring
    from robustness.corpus.blocks import TextBlocks
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
        generated: a generator's tokens for the masked positions of a text block; where there is
            none, a discriminator's tokens are drawn from the corpus.
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
        generated: "Callable[[int], NDArray[np.int64]] | None" = None,
    ) -> None:
        self._scoring = scoring
        self._options = options
        self._blocks = blocks
        self._tokenizer = tokenizer
        self._seed = seed
        self._fingerprint = fingerprint
        self._generated = generated

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
        """What the model is asked about one text block; its NLL is the sum over these rows."""
        return list(self._rows(block))

    def _rows(self, block: int) -> "Iterable[ScoredBlock]":
        ids, special = self._blocks.ids[block], self._blocks.special[block]
        seed = self.seed_of(block)
        masking = self._options.masking
        if self._scoring == "causal":
            return [causal_block(ids, given=self._blocks.given[block])]
        if self._scoring == "permutation":
            return permutation_rows(
                ids, special, masking=masking, words=self._words(block), block_seed=seed
            )
        if self._scoring == "replaced-token":
            drawn = self._replacements(block)
            return [replaced_block(ids, special, replacements=drawn, block_seed=seed)]
        if self._scoring == "seq2seq":
            if marks := self._sentinels:
                suffix = ids[np.flatnonzero(~special)[-1] + 1 :]
                return [span_block(ids, special, sentinels=marks, suffix=suffix, block_seed=seed)]
            return [infilling_block(ids, special, mask_id=self._mask_id, block_seed=seed)]
        return masked_rows(
            ids,
            special,
            masking=masking,
            mask_id=self._mask_id,
            vocabulary=self._ordinary_tokens,
            words=self._words(block),
            block_seed=seed,
        )

    def masked(self, block: int, *, mask_id: int) -> "ScoredBlock":
        """What a discriminator's generator is asked: to fill in the tokens to be replaced."""
        ids, special = self._blocks.ids[block], self._blocks.special[block]
        return masked_block(ids, special, mask_id=mask_id, block_seed=self.seed_of(block))

    def seed_of(self, block: int) -> BlockSeed:
        """What every random choice about a text block of the corpus depends on."""
        return BlockSeed(self._seed, self._fingerprint, block)

    def _replacements(self, block: int) -> NDArray[np.int64]:
        if self._generated is not None:
            return self._generated(block)
        special, seed = self._blocks.special[block], self.seed_of(block)
        return unigram_replacements(special, corpus_tokens=self._corpus_tokens, block_seed=seed)

    @cached_property
    def _corpus_tokens(self) -> NDArray[np.int64]:
        """All tokens of all text blocks that are not special, in their order."""
        pairs = zip(self._blocks.ids, self._blocks.special, strict=True)
        return np.concatenate([ids[~special] for ids, special in pairs])

    @property
    def _mask_id(self) -> int:
        mask_id: int = self._tokenizer.mask_token_id
        return mask_id

    @cached_property
    def _sentinels(self) -> list[int]:
        return sentinels(self._tokenizer)

    @cached_property
    def _ordinary_tokens(self) -> list[int]:
        """Ids of the vocabulary that are not special, ascending."""
        special = set(self._tokenizer.all_special_ids)
        return sorted(set(self._tokenizer.get_vocab().values()) - special)

    def _words(self, block: int) -> NDArray[np.int64] | None:
        return None if self._blocks.words is None else self._blocks.words[block]
