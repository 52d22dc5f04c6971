"""The special tokens around a text, found by encoding probes rather than from tables of classes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, TypeAlias

from robustness.checkpoint.loading import loading_errors
from robustness.checkpoint.tokenization import SAVE_AGAIN
from robustness.errors import CorpusError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from transformers import BatchEncoding, PreTrainedTokenizerBase

    from robustness.corpus.corpus import Corpus

Bos: TypeAlias = Literal["auto", "always", "never"]


def surrounding(
    tokenizer: PreTrainedTokenizerBase, corpus: Corpus, *, bos: Bos
) -> tuple[list[int], list[int]]:
    """The special tokens before and after every text block.

    Args:
        tokenizer: The checkpoint's tokenizer.
        corpus: The text, which serves as the last probe.
        bos: Whether the token that begins a sequence stands first: ``auto`` as the tokenizer has
            it, ``always`` or ``never``.

    Raises:
        CorpusError: The tokenizer does not just surround a text, or has no such token.
    """
    before, after = _around(tokenizer, corpus)
    first = tokenizer.bos_token_id
    if bos == "never" and before and before[0] == first:
        return before[1:], after
    if bos == "always" and (not before or before[0] != first):
        if first is None:
            raise CorpusError(
                "the tokenizer has no token that begins a sequence, so none can be put first: use "
                "bos auto, or set bos_token in tokenizer_config.json"
            )
        return [first, *before], after
    return before, after


def encoded(
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


def _around(tokenizer: PreTrainedTokenizerBase, corpus: Corpus) -> tuple[list[int], list[int]]:
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


def _encode(
    tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], *, special: bool
) -> list[list[int]]:
    ids: list[list[int]] = encoded(tokenizer, texts, special=special)["input_ids"]
    return ids
