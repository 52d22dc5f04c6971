"""How much text a text block holds, for perplexities that do not depend on the tokenizer.

Text blocks partition a text: each holds the characters from where its first token begins to where
the next one's does. A word belongs to the text block that it begins in, so that words and bytes add
up to those of the text.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_WORD_START = re.compile(r"(?<!\S)\S")
_MOST_BYTES_PER_WORD = 50


@dataclass(frozen=True, kw_only=True)
class Span:
    """The tokens of one text block in the text that it was cut from.

    Attributes:
        text: number of the text in the corpus.
        first: its first token, of the text's.
        end: the token behind its last.
        tokens: how many of them are not special.
    """

    text: int
    first: int
    end: int
    tokens: int


@dataclass(frozen=True, kw_only=True)
class TextSizes:
    """Text per text block, in the order of the corpus; shapes (n_blocks,).

    Attributes:
        tokens: tokens that are not special.
        words: pieces between white space that begin in it.
        utf8_bytes: length in UTF-8.
    """

    tokens: NDArray[np.int64]
    words: NDArray[np.int64]
    utf8_bytes: NDArray[np.int64]


def text_sizes(
    texts: Sequence[str],
    lengths: Sequence[int],
    starts: Sequence[NDArray[np.int64] | None],
    spans: Sequence[Span],
) -> TextSizes | None:
    """Sizes of text blocks.

    Args:
        texts: the corpus.
        lengths: tokens of each text.
        starts: the character that each token of a text begins at; ``None`` where unknown.
        spans: the text blocks.

    Returns:
        ``None`` where a text block is a piece of a text and nobody knows which characters it has.
    """
    words, utf8_bytes, current, begins = [], [], -1, np.array([], dtype=np.int64)
    for span in spans:
        text = texts[span.text]
        if span.text != current:
            current = span.text
            begins = np.array([match.start() for match in _WORD_START.finditer(text)])
        sizes_of_text = starts[span.text]
        if sizes_of_text is None and (span.first, span.end) != (0, lengths[span.text]):
            return None
        first = 0 if span.first == 0 or sizes_of_text is None else int(sizes_of_text[span.first])
        end = (
            len(text)
            if span.end == lengths[span.text] or sizes_of_text is None
            else sizes_of_text[span.end]
        )
        words.append(int(np.searchsorted(begins, end) - np.searchsorted(begins, first)))
        utf8_bytes.append(len(text[first : int(end)].encode()))
    return TextSizes(
        tokens=np.array([span.tokens for span in spans], dtype=np.int64),
        words=np.array(words, dtype=np.int64),
        utf8_bytes=np.array(utf8_bytes, dtype=np.int64),
    )


def normalised_perplexity(
    mean_nll_nats: float, *, tokens: int, words: int, utf8_bytes: int
) -> Mapping[str, float | int | None]:
    r"""Perplexity per word and per byte, and bits per byte, as lm-evaluation-harness defines them.

    The mean NLL per scored token stands for every token of the text; where all of them are scored,
    as by a causal model behind a token that begins the sequence, this is their summed NLL.

    There is no perplexity per word (``None``) where white space does not part the text into words:
    where what lies between it has more than 50 bytes on average, white space included. English has
    about 5, source code 9, Malayalam, with long words and three bytes a letter, 30 to 40; proteins
    and chemical reactions, a whole one in each line, have about 100, paragraphs of Chinese or
    Japanese and lines of minified code as many. (Chinese in very short lines passes: per line.)

    Args:
        mean_nll_nats: per scored token.
        tokens: tokens of the text, special ones left out.
        words: words of the text, ``len(re.split(r"\s+", text))``.
        utf8_bytes: its length in UTF-8.
    """
    nats = mean_nll_nats * tokens
    parted = words > 0 and utf8_bytes <= _MOST_BYTES_PER_WORD * words
    return {
        "words": words,
        "utf8_bytes": utf8_bytes,
        "word_perplexity": float(np.exp(nats / words)) if parted else None,
        "byte_perplexity": float(np.exp(nats / utf8_bytes)) if utf8_bytes else None,
        "bits_per_byte": nats / (utf8_bytes * math.log(2)) if utf8_bytes else None,
    }
