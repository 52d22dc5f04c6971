"""A corpus in text blocks, in the order of measurement, and what a model is asked about each.

The tokenizer is loaded when the first number is missing from the store, and not before.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from robustness.corpus.text_size import TextSizes
from robustness.scoring.replaced import entropy_nats
from robustness.scoring.sampling import block_order
from robustness.store.store import Record, Store

if TYPE_CHECKING:
    from robustness.checkpoint.checkpoint import Checkpoint
    from robustness.corpus.blocks import TextBlocks
    from robustness.corpus.corpus import Corpus
    from robustness.scoring.block import PlannedChunk, ScoredBlock
    from robustness.scoring.discriminator import Sampler
    from robustness.scoring.examples import Excerpt
    from robustness.scoring.options import ScoringOptions
    from robustness.scoring.questions import Questions

CHUNK_BLOCKS = 16
"""Text blocks in a chunk, the unit that is stored and after which a decision is looked at."""

BASE_RATE_BLOCKS = 128
"""Text blocks, from the first in the seeded order, whose replaced tokens make the base rate."""


@dataclass(frozen=True, kw_only=True)
class Layout:
    """What became of the corpus.

    Attributes:
        n_blocks: text blocks.
        n_tokens: their tokens, special tokens included.
        split_examples: examples longer than a text block, split there.
        dropped_tokens: tokens at the end that filled no text block.
        unknown_tokens: tokens for text that the tokenizer does not know.
        begins_with: the special token that text blocks begin with, if any.
    """

    n_blocks: int
    n_tokens: int
    split_examples: int
    dropped_tokens: int
    unknown_tokens: int
    begins_with: str | None


@dataclass(kw_only=True, eq=False, repr=False)
class ScoringPlan:
    """What one checkpoint is asked about one corpus.

    The seed decides the order of text blocks and the masks; a generator, if there is one, replaces
    a discriminator's tokens. The text blocks are kept in a store of their own.
    """

    checkpoint: "Checkpoint"
    corpus: "Corpus"
    block_size: int
    seed: int
    device: str
    options: "ScoringOptions"
    generator: "Checkpoint | None"
    store: Store
    block_store: Store

    @cached_property
    def layout(self) -> Layout:
        """Sizes of the corpus in text blocks (from the store where known)."""
        (record,) = self.store.obtain([{"layout": 3}], self._measure_layout)
        return Layout(**record)

    @cached_property
    def sizes(self) -> TextSizes | None:
        """Text per text block in the order of measurement; ``None`` where unknown."""
        (record,) = self.store.obtain([{"text_sizes": 1}], self._measure_sizes)
        if record["words"] is None:
            return None
        sizes = {name: np.array(values)[self.order] for name, values in record.items()}
        return TextSizes(**sizes)

    @cached_property
    def order(self) -> NDArray[np.int64]:
        """Corpus indices of the text blocks in the order of measurement, shape (n_blocks,)."""
        n_blocks, fingerprint = self.layout.n_blocks, self.corpus.fingerprint
        return block_order(n_blocks, seed=self.seed, fingerprint=fingerprint)

    @property
    def n_chunks(self) -> int:
        """Chunks in the corpus; the last may be short."""
        return -(-self.layout.n_blocks // CHUNK_BLOCKS)

    @cached_property
    def text_blocks_sha256(self) -> str:
        """Identifies the text blocks: two checkpoints with the same can be compared paired."""
        (record,) = self.store.obtain([{"text_blocks": 1}], self._hash_text_blocks)
        return str(record["sha256"])

    def tokens(self, block: int) -> list[int]:
        """A text block's tokens, by its index in the corpus."""
        tokens: list[int] = self._blocks.ids[block].tolist()
        return tokens

    def prepare(self, index: int) -> None:
        """Have what the questions about a chunk are made of, before anything is locked for it.

        Nobody may wait for a record while holding the lock of another: both may share a file.
        """
        if self.generator is not None:
            self.store.obtain([{"replacements": index}], self._generate)

    def load(self) -> None:
        """Have the tokenizer and the text blocks in memory, should they not be there yet."""
        assert self._questions is not None

    def chunk(self, index: int) -> "PlannedChunk":
        """All that is asked about one chunk of the seeded order."""
        from robustness.scoring.block import PlannedChunk

        members = self.order[index * CHUNK_BLOCKS : (index + 1) * CHUNK_BLOCKS]
        return PlannedChunk.of([self._questions.rows(int(block)) for block in members])

    def rows(self, blocks: Iterable[int]) -> "list[ScoredBlock]":
        """All that is asked about text blocks, given by their indices in the corpus."""
        return [row for block in blocks for row in self._questions.rows(block)]

    def excerpt(self, block: int) -> "Excerpt | None":
        """What is shown of a text block, given by its index in the corpus, as an example."""
        from robustness.scoring.examples import excerpt

        return excerpt(
            self._questions.rows(block),
            self._questions.block(block),
            scoring=self.checkpoint.scoring,
            decode=self.decode,
        )

    def decode(self, ids: Sequence[int]) -> str:
        """The text of tokens as the tokenizer sees it: nothing is left out or tidied up."""
        untouched = {"skip_special_tokens": False, "clean_up_tokenization_spaces": False}
        return str(self._tokenizer.decode(list(ids), **untouched))

    @property
    def pad_id(self) -> int:
        """A token id for padding; it is masked out."""
        return getattr(self._tokenizer, "pad_token_id", None) or 0

    @cached_property
    def _tokenizer(self) -> Any:
        return self.checkpoint.load_tokenizer()

    @cached_property
    def _blocks(self) -> "TextBlocks":
        from robustness.corpus.block_cache import from_record

        (record,) = self.block_store.obtain([{"blocks": 1}], self._tokenise)
        return from_record(record)

    def _tokenise(self, _: Mapping[str, Any]) -> Record:
        from robustness.corpus.block_cache import to_record
        from robustness.corpus.blocks import text_blocks

        blocks = text_blocks(
            self.corpus,
            self._tokenizer,
            block_size=self.block_size,
            bos=self.options.bos,
            context=self.options.context,
        )
        self.checkpoint.require_unchanged()
        return to_record(blocks)

    def _measure_layout(self, _: Mapping[str, Any]) -> Record:
        blocks = self._blocks
        counted = ("split_examples", "dropped_tokens", "unknown_tokens", "begins_with")
        self._questions.require_answerable()
        self.checkpoint.require_unchanged()
        return {
            "n_blocks": len(blocks.ids),
            "n_tokens": sum(map(len, blocks.ids)),
            **{name: getattr(blocks, name) for name in counted},
        }

    def _measure_sizes(self, _: Mapping[str, Any]) -> Record:
        sizes = self._blocks.sizes
        self.checkpoint.require_unchanged()
        return {
            name: None if sizes is None else getattr(sizes, name).tolist()
            for name in ("tokens", "words", "utf8_bytes")
        }

    def _hash_text_blocks(self, _: Mapping[str, Any]) -> Record:
        digest = sha256()
        for ids, special in zip(self._blocks.ids, self._blocks.special, strict=True):
            digest.update(len(ids).to_bytes(8, "little"))
            digest.update(ids.astype("<i8").tobytes() + special.astype("<i1").tobytes())
        self.checkpoint.require_unchanged()
        return {"sha256": digest.hexdigest()}

    @cached_property
    def _questions(self) -> "Questions":
        from robustness.scoring.questions import Questions

        return Questions(
            scoring=self.checkpoint.scoring,
            options=self.options,
            blocks=self._blocks,
            tokenizer=self._tokenizer,
            seed=self.seed,
            fingerprint=self.corpus.fingerprint,
            generated=None if self.generator is None else self._generated,
        )

    @cached_property
    def chance_nats(self) -> float:
        """Mean NLL per scored token of a guess that looks at no text.

        Uniform over the vocabulary; for a discriminator, at the base rate of replaced tokens.
        """
        if self.checkpoint.scoring != "replaced-token":
            return math.log(self.checkpoint.vocab_size)
        for index in range(min(self.n_chunks, -(-BASE_RATE_BLOCKS // CHUNK_BLOCKS))):
            self.prepare(index)
        (record,) = self.store.obtain([{"base_rate": BASE_RATE_BLOCKS}], self._measure_base_rate)
        return entropy_nats(record["replaced"] / record["tokens"])

    def _measure_base_rate(self, _: Mapping[str, Any]) -> Record:
        blocks = self.order[:BASE_RATE_BLOCKS].tolist()
        targets = [row.targets for row in self.rows(blocks)]
        return {"replaced": int(sum(map(np.sum, targets))), "tokens": sum(map(len, targets))}

    def _generated(self, block: int) -> NDArray[np.int64]:
        """The generator's tokens for one text block, the same in every process."""
        chunk, place = divmod(int(np.flatnonzero(self.order == block)[0]), CHUNK_BLOCKS)
        (record,) = self.store.obtain([{"replacements": chunk}], self._generate)
        return np.array(record["tokens"][place], dtype=np.int64)

    def _generate(self, key: Mapping[str, Any]) -> Record:
        start = key["replacements"] * CHUNK_BLOCKS
        blocks = self.order[start : start + CHUNK_BLOCKS].tolist()
        return {"tokens": [self._sampler(self._questions.block(each)).tolist() for each in blocks]}

    @cached_property
    def _sampler(self) -> "Sampler":
        from robustness.scoring.discriminator import Sampler

        assert self.generator is not None
        return Sampler(self.generator, tokenizer=self._tokenizer, device=self.device)
