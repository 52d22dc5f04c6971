"""From a corpus to text blocks: the token ids that are measured, and which of them are special.

A text block is ``block_size`` consecutive tokens, special tokens included. Every text block carries
the special tokens that the tokenizer puts around a single text (``[CLS]`` … ``[SEP]``, ``<s>``, or
none), found by encoding a probe with and without them rather than from the tokenizer's class.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from robustness.errors import CorpusError
from robustness.loading import loading_errors
from robustness.tokenization import SAVE_AGAIN

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray
    from transformers import BatchEncoding, PreTrainedTokenizerBase

    from robustness.corpus import Corpus

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
        split_examples: Number of examples that were longer than a text block and were split.
        dropped_tokens: Number of the corpus' tokens that are in no text block: the end of a packed
            corpus that fills none, and pieces with fewer than two tokens that are not special.
        unknown_tokens: Number of the text blocks' tokens that stand for text which the tokenizer
            does not know.
    """

    ids: tuple[NDArray[np.int64], ...]
    special: tuple[NDArray[np.bool_], ...]
    words: tuple[NDArray[np.int64], ...] | None
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


def text_blocks(
    corpus: Corpus, tokenizer: PreTrainedTokenizerBase, *, block_size: int = 128
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

    Raises:
        CorpusError: The block size leaves no room for text, or the corpus fills no text block.
    """
    prefix, suffix = _surrounding(tokenizer, corpus)
    n_special = len(prefix) + len(suffix)
    capacity = block_size - n_special
    if capacity < _MIN_TEXT_TOKENS:
        raise CorpusError(
            f"a text block of {block_size} tokens leaves no room for text beside {n_special} "
            f"special tokens; set the block size to at least {n_special + _MIN_TEXT_TOKENS}"
        )
    special_ids = np.array(sorted(_special_ids(tokenizer)), dtype=np.int64)
    head, tail = np.array(prefix, dtype=np.int64), np.array(suffix, dtype=np.int64)
    packed = corpus.layout == "packed"

    ids: list[NDArray[np.int64]] = []
    special: list[NDArray[np.bool_]] = []
    words: list[NDArray[np.int64]] = []
    tokenised = _tokenised(tokenizer, corpus.texts)
    dropped = 0
    for piece, of_word in (pair for tokens in tokenised for pair in _cut(*tokens, capacity)):
        inside = np.isin(piece, special_ids)
        too_short = len(piece) - int(inside.sum()) < _MIN_TEXT_TOKENS
        if too_short or (packed and len(piece) < capacity):
            dropped += len(piece)
            continue
        ids.append(np.concatenate([head, piece, tail]))  # (T,)
        around = (len(head), len(tail))
        special.append(np.pad(inside, around, constant_values=True))  # (T,)
        words.append(np.pad(of_word, around, constant_values=-1))  # (T,)

    lengths = [len(tokens) for tokens, _ in tokenised]
    if not ids:
        raise _no_blocks(corpus, sum(lengths) + n_special, block_size)
    return TextBlocks(
        ids=tuple(ids),
        special=tuple(special),
        words=tuple(words) if tokenizer.is_fast else None,
        split_examples=0 if packed else sum(length > capacity for length in lengths),
        dropped_tokens=dropped,
        unknown_tokens=_count_unknown(tokenizer, ids, special),
    )


def _cut(
    tokens: NDArray[np.int64], words: NDArray[np.int64], size: int
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    pieces = (slice(start, start + size) for start in range(0, len(tokens), size))
    return ((tokens[piece], words[piece]) for piece in pieces)


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


def _tokenised(
    tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]
) -> list[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Token ids of each text and the word of each token (-1 where it belongs to none)."""
    encoding = _encoding(tokenizer, texts, special=False)
    tokenised = []
    for number, ids in enumerate(encoding["input_ids"]):
        words = encoding.word_ids(number) if tokenizer.is_fast else [None] * len(ids)
        of_word = [-1 if word is None else word for word in words]
        tokenised.append((np.array(ids, dtype=np.int64), np.array(of_word, dtype=np.int64)))
    return tokenised


def _encode(
    tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], *, special: bool
) -> list[list[int]]:
    ids: list[list[int]] = _encoding(tokenizer, texts, special=special)["input_ids"]
    return ids


def _encoding(
    tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], *, special: bool
) -> BatchEncoding:
    """The tokens of each text, neither truncated nor padded, whatever the tokenizer's file says."""
    with loading_errors("The tokenizer", advice=SAVE_AGAIN):
        encoding: BatchEncoding = tokenizer(
            list(texts),
            add_special_tokens=special,
            truncation=False,
            padding=False,
            return_attention_mask=False,
            return_token_type_ids=False,
            verbose=False,  # a text longer than the model's positions is expected here
        )
    return encoding


def _surrounding(tokenizer: PreTrainedTokenizerBase, corpus: Corpus) -> tuple[list[int], list[int]]:
    """The special tokens before and after a single text.

    The best probe is one without special ids, among them the unknown token's, which could be taken
    for what surrounds it. The corpus' own first characters are the last resort, for vocabularies
    that know neither letter.
    """
    probes = ["a", "C", corpus.texts[0].strip()[:64]]
    bare_probes = _encode(tokenizer, probes, special=False)
    encoded = zip(bare_probes, _encode(tokenizer, probes, special=True), strict=True)
    usable = [(bare, full) for bare, full in encoded if bare]
    if not usable:
        raise CorpusError(
            f"the tokenizer makes no tokens of corpus {corpus.reference}; "
            "name a corpus that suits it"
        )
    special_ids = set(tokenizer.all_special_ids)
    bare, full = min(usable, key=lambda pair: not special_ids.isdisjoint(pair[0]))
    for start in range(len(full) - len(bare) + 1):
        end = start + len(bare)
        if full[start:end] == bare:
            return full[:start], full[end:]
    raise CorpusError(
        "the tokenizer changes the tokens of a text when it adds special ones, so text blocks "
        "cannot be cut from its output; use a tokenizer that adds them around the text"
    )


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
