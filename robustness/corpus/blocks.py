"""From a corpus to text blocks: the token ids that are measured, and which of them are special.

A text block is ``block_size`` consecutive tokens, special tokens included. Every text block carries
the special tokens that the tokenizer puts around a single text (``[CLS]`` … ``[SEP]``, ``<s>``, or
none), found by encoding a probe with and without them rather than from the tokenizer's class.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from robustness.corpus.special_tokens import Bos, encoded, surrounding
from robustness.corpus.text_size import Span, TextSizes, text_sizes
from robustness.errors import CorpusError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray
    from transformers import PreTrainedTokenizerBase

    from robustness.corpus.corpus import Corpus

__all__ = ["TextBlocks", "text_blocks"]

_MIN_TEXT_TOKENS = 2  # fewer cannot be scored: one token to predict and one to predict it from


@dataclass(frozen=True, kw_only=True, eq=False)
class TextBlocks:
    """Text blocks in the order of the corpus.

    Attributes:
        ids: Token ids of each text block, each array of shape (T,).
        special: True at special tokens, arrays shaped as in ``ids``.
        words: Number of the word that each token belongs to, as the tokenizer parts text before it
            looks for tokens, and -1 at the special tokens around it; arrays shaped as in ``ids``.
            ``None`` where the tokenizer does not say (slow ones).
        given: Number of tokens at the beginning of each text block that a causal model is not
            asked for: the first, or special tokens and context.
        begins_with: The special token that every text block begins with; ``None`` without one.
        sizes: How much text there is in each; ``None`` where the tokenizer does not say.
        split_examples: Number of examples that were longer than a text block and were split.
        dropped_tokens: Number of the corpus' tokens that are in no text block: the end of a packed
            corpus that fills none, and pieces with fewer than two tokens that are not special.
        unknown_tokens: Number of the text blocks' tokens that stand for text which the tokenizer
            does not know.
    """

    ids: tuple[NDArray[np.int64], ...]
    special: tuple[NDArray[np.bool_], ...]
    words: tuple[NDArray[np.int64], ...] | None
    given: tuple[int, ...]
    begins_with: str | None
    sizes: TextSizes | None
    split_examples: int
    dropped_tokens: int
    unknown_tokens: int

    @property
    def n_blocks(self) -> int:
        """Number of text blocks."""
        return len(self.ids)

    @property
    def n_tokens(self) -> int:
        """Number of tokens in all text blocks, special tokens included."""
        return sum(len(ids) for ids in self.ids)


@dataclass(frozen=True, kw_only=True, eq=False)
class _Tokens:
    """A tokenised text: ids, the word of each token, and the character that it begins at."""

    ids: NDArray[np.int64]
    words: NDArray[np.int64]
    starts: NDArray[np.int64] | None


def text_blocks(
    corpus: Corpus,
    tokenizer: PreTrainedTokenizerBase,
    *,
    block_size: int = 128,
    bos: Bos = "auto",
    context: int = 0,
) -> TextBlocks:
    """Tokenises a corpus and cuts it into text blocks.

    A packed corpus is tokenised as a whole, without special tokens, and cut into consecutive
    pieces; the last one, if shorter, is dropped. In a corpus of lines every example is tokenised
    alone and is one text block, or several consecutive ones if it does not fit into one.

    Special are the tokens around each piece and every token in it that the tokenizer counts among
    its special ones, except the unknown token, which stands for ordinary text.

    Args:
        corpus: The text.
        tokenizer: The checkpoint's tokenizer, fast or slow.
        block_size: Tokens in a text block, special tokens included; the most there are when the
            corpus consists of lines.
        bos: Whether the token that begins a sequence stands first; see :func:`surrounding`.
        context: Tokens before each piece but a text's first that are repeated from the piece
            before, and not scored; pieces are shorter by as many.

    Raises:
        CorpusError: The block size leaves no room for text, or the corpus fills no text block.
    """
    prefix, suffix = surrounding(tokenizer, corpus, bos=bos)
    n_special = len(prefix) + len(suffix)
    capacity = block_size - n_special
    if capacity - context < _MIN_TEXT_TOKENS:
        raise _no_room(block_size, n_special, context)
    tokenised = _tokenised(tokenizer, corpus.texts)
    pieces = _Pieces(
        head=np.array(prefix, dtype=np.int64),
        tail=np.array(suffix, dtype=np.int64),
        special_ids=np.array(sorted(_special_ids(tokenizer)), dtype=np.int64),
    )
    packed, dropped = corpus.layout == "packed", 0
    for number, tokens in enumerate(tokenised):
        for seen, start, end in _cuts(len(tokens.ids), capacity, context):
            short = packed and end - seen < capacity
            if short or not pieces.add(number, tokens, seen, start, end):
                dropped += end - start
    lengths = [len(tokens.ids) for tokens in tokenised]
    if not pieces.ids:
        raise _no_blocks(corpus, sum(lengths) + n_special, block_size)
    starts = [tokens.starts for tokens in tokenised]
    return TextBlocks(
        ids=tuple(pieces.ids),
        special=tuple(pieces.special),
        words=tuple(pieces.words) if tokenizer.is_fast else None,
        given=tuple(pieces.given),
        begins_with=str(tokenizer.convert_ids_to_tokens(prefix)[0]) if prefix else None,
        sizes=text_sizes(corpus.texts, lengths, starts, pieces.spans),
        split_examples=0 if packed else sum(length > capacity for length in lengths),
        dropped_tokens=dropped,
        unknown_tokens=_count_unknown(tokenizer, pieces.ids, pieces.special),
    )


@dataclass(kw_only=True)
class _Pieces:
    """The pieces of texts that become text blocks, with special tokens around them."""

    head: NDArray[np.int64]
    tail: NDArray[np.int64]
    special_ids: NDArray[np.int64]
    ids: list[NDArray[np.int64]] = field(default_factory=list)
    special: list[NDArray[np.bool_]] = field(default_factory=list)
    words: list[NDArray[np.int64]] = field(default_factory=list)
    given: list[int] = field(default_factory=list)
    spans: list[Span] = field(default_factory=list)

    def add(self, text: int, tokens: _Tokens, seen: int, start: int, end: int) -> bool:
        """The piece from start to end with its context, from ``seen`` on, if it has enough text."""
        n_text = end - start - int(np.isin(tokens.ids[start:end], self.special_ids).sum())
        if n_text < _MIN_TEXT_TOKENS:
            return False
        around = (len(self.head), len(self.tail))
        shown = tokens.ids[seen:end]
        self.ids.append(np.concatenate([self.head, shown, self.tail]))  # (T,)
        flags = np.isin(shown, self.special_ids)
        self.special.append(np.pad(flags, around, constant_values=True))  # (T,)
        self.words.append(np.pad(tokens.words[seen:end], around, constant_values=-1))  # (T,)
        self.given.append(len(self.head) + start - seen if start > seen else 1)
        self.spans.append(Span(text=text, first=start, end=end, tokens=n_text))
        return True


def _cuts(n_tokens: int, capacity: int, context: int) -> Iterator[tuple[int, int, int]]:
    """Where the context of each piece begins, where it begins itself, and where it ends."""
    start = 0
    while start < n_tokens:
        seen = max(0, start - context)
        end = min(n_tokens, seen + capacity)
        yield seen, start, end
        start = end


def _no_room(block_size: int, n_special: int, context: int) -> CorpusError:
    beside = f"{n_special} special tokens" + (f" and {context} of context" if context else "")
    return CorpusError(
        f"a text block of {block_size} tokens leaves no room for text beside {beside}; "
        f"set the block size to at least {n_special + context + _MIN_TEXT_TOKENS}"
    )


def _no_blocks(corpus: Corpus, n_tokens: int, block_size: int) -> CorpusError:
    if corpus.layout == "packed" and n_tokens < block_size:
        return CorpusError(
            f"corpus {corpus.reference} has only {n_tokens} tokens, fewer than one text block of "
            f"{block_size}; name a longer corpus or set a smaller block size"
        )
    return CorpusError(
        f"corpus {corpus.reference} has no text block with at least {_MIN_TEXT_TOKENS} tokens that "
        "are not special; name another corpus, or one that suits the tokenizer"
    )


def _tokenised(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> list[_Tokens]:
    encoding = encoded(tokenizer, texts, special=False)
    tokenised = []
    for number, ids in enumerate(encoding["input_ids"]):
        words, starts = np.full(len(ids), -1), None
        if tokenizer.is_fast:
            of_word = (-1 if word is None else word for word in encoding.word_ids(number))
            words = np.fromiter(of_word, dtype=np.int64, count=len(ids))
            offsets = (encoding.encodings or [])[number].offsets
            starts = np.fromiter((start for start, _ in offsets), dtype=np.int64, count=len(ids))
        tokenised.append(_Tokens(ids=np.array(ids, dtype=np.int64), words=words, starts=starts))
    return tokenised


def _count_unknown(
    tokenizer: PreTrainedTokenizerBase,
    ids: Sequence[NDArray[np.int64]],
    special: Sequence[NDArray[np.bool_]],
) -> int:
    unknown = tokenizer.unk_token_id
    if unknown is None:
        return 0
    pairs = zip(ids, special, strict=True)
    return sum(int(((block == unknown) & ~flags).sum()) for block, flags in pairs)


def _special_ids(tokenizer: PreTrainedTokenizerBase) -> set[int]:
    """All special ids, without the unknown token unless that one has another office too."""
    ids = set(tokenizer.all_special_ids)
    unknown = tokenizer.special_tokens_map.get("unk_token")
    offices = [*tokenizer.special_tokens_map.values(), *tokenizer.extra_special_tokens]
    if unknown is not None and offices.count(unknown) == 1:
        ids.discard(tokenizer.unk_token_id)
    return ids
