"""Text blocks hold the corpus' tokens in order, whole, between the tokenizer's special tokens."""

from __future__ import annotations

import importlib.util
import time
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Regex, Tokenizer, models, pre_tokenizers, processors
from transformers import AutoTokenizer, ByT5Tokenizer, PreTrainedTokenizerFast

from robustness.corpus.blocks import TextBlocks, text_blocks
from robustness.corpus.corpus import Corpus, load_corpus
from robustness.errors import CorpusError
from tests.support.checkpoints.shared import shared_data, shared_model, smollm2_reference

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

LETTERS = "abcdefghij\n "
SPECIAL = {"[CLS]": 0, "[SEP]": 1, "[PAD]": 2, "[MASK]": 3, "[UNK]": 4}
VOCABULARY = {**SPECIAL, **{letter: 5 + i for i, letter in enumerate(LETTERS)}}
NAMES = {f"{name.strip('[]').lower()}_token": name for name in SPECIAL}

TEMPLATES = {
    "[CLS] … [SEP]": ("[CLS] $A [SEP]", 1, 1),
    "[CLS] [CLS] …": ("[CLS] [CLS] $A", 2, 0),
    "… [SEP]": ("$A [SEP]", 0, 1),
    "…": ("$A", 0, 0),
}


def letter_tokenizer(template: str = "[CLS] … [SEP]", **names: str) -> PreTrainedTokenizerFast:
    """A fast tokenizer in which every character is a token, unknown ones being [UNK]."""
    tokenizer = Tokenizer(models.WordLevel(VOCABULARY, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), behavior="isolated")
    tokenizer.post_processor = processors.TemplateProcessing(
        single=TEMPLATES[template][0], special_tokens=[("[CLS]", 0), ("[SEP]", 1)]
    )
    return wrapped(tokenizer, **(names or NAMES))


def wrapped(tokenizer: Tokenizer, **names: str) -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names)  # type: ignore[no-untyped-call]


def corpus(*texts: str, layout: Literal["packed", "lines"] = "packed") -> Corpus:
    return Corpus(
        reference="prose.txt", description="prose", layout=layout, texts=texts, fingerprint="0" * 64
    )


def bare(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    ids: list[int] = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
    return ids


def cut(blocks: TextBlocks, before: int, after: int) -> list[list[int]]:
    """The ids of each text block without the special tokens around it."""
    return [ids[before : len(ids) - after].tolist() for ids in blocks.ids]


TOKENIZERS = {template: letter_tokenizer(template) for template in TEMPLATES}
templates = st.sampled_from(sorted(TEMPLATES))
prose = st.text(alphabet=LETTERS + "xyé", min_size=1, max_size=120).filter(str.strip)


# --- packed


@given(text=prose, template=templates, block_size=st.integers(4, 20))
def test_packed_blocks_and_the_dropped_end_are_the_tokens_of_the_text(
    text: str, template: str, block_size: int
) -> None:
    tokenizer, (_, before, after) = TOKENIZERS[template], TEMPLATES[template]
    tokens, capacity = bare(tokenizer, text), block_size - before - after
    if len(tokens) < capacity:
        with pytest.raises(CorpusError, match=f"has only {len(tokens) + before + after} tokens"):
            text_blocks(corpus(text), tokenizer, block_size=block_size)
        return
    blocks = text_blocks(corpus(text), tokenizer, block_size=block_size)
    kept = list(chain.from_iterable(cut(blocks, before, after)))
    assert kept + tokens[len(kept) :] == tokens
    assert blocks.dropped_tokens == len(tokens) - len(kept) < capacity
    assert {len(ids) for ids in blocks.ids} == {block_size}
    assert blocks.n_blocks == len(tokens) // capacity
    assert blocks.n_tokens == blocks.n_blocks * block_size
    assert blocks.split_examples == 0
    for ids, special in zip(blocks.ids, blocks.special, strict=True):
        assert ids.dtype == np.int64
        assert special.dtype == np.bool_
        assert special.tolist() == [True] * before + [False] * capacity + [True] * after
        assert set(ids[special].tolist()) <= {0, 1}


def test_a_block_is_wrapped_as_the_tokenizer_wraps_a_text() -> None:
    tokenizer = letter_tokenizer()
    blocks = text_blocks(corpus("abcdefg"), tokenizer, block_size=5)
    assert [ids.tolist() for ids in blocks.ids] == tokenizer(["abc", "def"])["input_ids"]
    assert blocks.dropped_tokens == 1


def test_special_tokens_in_the_text_are_special_and_unknown_ones_are_not() -> None:
    blocks = text_blocks(corpus("ab[MASK]?c[PAD]"), letter_tokenizer(), block_size=8)
    [ids], [special] = blocks.ids, blocks.special
    assert ids.tolist() == [0, 5, 6, 3, 4, 7, 2, 1]
    assert special.tolist() == [True, False, False, True, False, False, True, True]


def test_an_unknown_token_that_also_ends_texts_is_special() -> None:
    tokenizer = letter_tokenizer("…", unk_token="[UNK]", eos_token="[UNK]")
    [special] = text_blocks(corpus("ab[UNK]c"), tokenizer, block_size=4).special
    assert special.tolist() == [False, False, True, False]


def test_a_packed_block_without_two_ordinary_tokens_is_dropped() -> None:
    text = "abc" + "[MASK][PAD]d" + "efg"
    blocks = text_blocks(corpus(text), letter_tokenizer(), block_size=5)
    assert cut(blocks, 1, 1) == [[5, 6, 7], [9, 10, 11]]
    assert blocks.dropped_tokens == 3


# --- lines


examples = st.lists(
    st.text(alphabet="abcdefghij ", min_size=1, max_size=30).map(str.strip).filter(bool),
    min_size=1,
    max_size=8,
)


@given(texts=examples, template=templates, block_size=st.integers(4, 20))
def test_examples_are_kept_whole_or_split_into_consecutive_pieces(
    texts: list[str], template: str, block_size: int
) -> None:
    tokenizer, (_, before, after) = TOKENIZERS[template], TEMPLATES[template]
    capacity = block_size - before - after
    expected: list[list[int]] = []
    dropped = split = 0
    for text in texts:
        left = bare(tokenizer, text)
        split += len(left) > capacity
        while left:
            piece, left = left[:capacity], left[capacity:]
            if len(piece) >= 2:
                expected.append(piece)
            else:
                dropped += len(piece)
    source = corpus(*texts, layout="lines")
    if not expected:
        with pytest.raises(CorpusError, match="no text block with at least 2 tokens"):
            text_blocks(source, tokenizer, block_size=block_size)
        return
    blocks = text_blocks(source, tokenizer, block_size=block_size)
    assert cut(blocks, before, after) == expected
    assert (blocks.split_examples, blocks.dropped_tokens) == (split, dropped)


def test_an_example_that_fits_is_one_block_as_the_tokenizer_encodes_it() -> None:
    texts = ("ab", "cdefgh", "i?")
    tokenizer = letter_tokenizer()
    blocks = text_blocks(corpus(*texts, layout="lines"), tokenizer, block_size=8)
    assert [ids.tolist() for ids in blocks.ids] == tokenizer(list(texts))["input_ids"]
    assert (blocks.n_blocks, blocks.n_tokens) == (3, 16)
    assert (blocks.split_examples, blocks.dropped_tokens) == (0, 0)


# --- tokenizers


@pytest.mark.parametrize("layout", ["packed", "lines"])
def test_a_slow_tokenizer_works_too(layout: Literal["packed", "lines"]) -> None:
    tokenizer = ByT5Tokenizer()
    assert not tokenizer.is_fast
    blocks = text_blocks(corpus("abc déf", layout=layout), tokenizer, block_size=5)
    assert [ids.tolist() for ids in blocks.ids] == tokenizer(["abc ", "déf"])["input_ids"]
    assert [special.tolist() for special in blocks.special] == [[False] * 4 + [True]] * 2


def test_padding_and_truncation_in_the_tokenizers_file_are_not_applied() -> None:
    tokenizer = letter_tokenizer()
    tokenizer.backend_tokenizer.enable_truncation(3)
    tokenizer.backend_tokenizer.enable_padding(length=16)
    tokenizer.model_max_length = 4
    blocks = text_blocks(corpus("abcdefg", "hi", layout="lines"), tokenizer, block_size=9)
    assert cut(blocks, 1, 1) == [[5, 6, 7, 8, 9, 10, 11], [12, 13]]


def test_a_text_longer_than_the_model_gives_no_warning(
    caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    tokenizer = letter_tokenizer()
    tokenizer.model_max_length = 16
    text_blocks(corpus("abcdefg" * 100), tokenizer, block_size=16)
    assert caplog.messages == []
    assert tuple(capfd.readouterr()) == ("", "")


def test_a_vocabulary_without_the_probe_is_probed_with_the_corpus() -> None:
    # Byte-pair encoding without an unknown token makes nothing of characters it does not know.
    tokenizer = Tokenizer(models.BPE({"[CLS]": 0, "東": 1, "京": 2}, []))
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A", special_tokens=[("[CLS]", 0)]
    )
    fast = wrapped(tokenizer, cls_token="[CLS]")
    blocks = text_blocks(corpus("東京京"), fast, block_size=4)
    assert [ids.tolist() for ids in blocks.ids] == [[0, 1, 2, 2]]
    with pytest.raises(CorpusError, match=r"makes no tokens of corpus prose\.txt"):
        text_blocks(corpus("abc"), fast, block_size=4)


def test_an_unknown_probe_is_not_taken_for_the_special_token_of_the_same_name() -> None:
    vocabulary = {"[CLS]": 0, "C": 1, "O": 2}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[CLS]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("."), behavior="isolated")
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A", special_tokens=[("[CLS]", 0)]
    )
    fast = wrapped(tokenizer, cls_token="[CLS]", unk_token="[CLS]")
    blocks = text_blocks(corpus("COC"), fast, block_size=4)
    assert [ids.tolist() for ids in blocks.ids] == [[0, 1, 2, 1]]


def test_a_tokenizer_that_mixes_special_tokens_into_the_text_is_refused() -> None:
    class Mixing:
        all_special_ids = (0,)

        def __call__(self, texts: list[str], *, add_special_tokens: bool, **_: Any) -> Any:
            return {"input_ids": [[1, 0, 2] if add_special_tokens else [1, 2] for _ in texts]}

    mixing: Any = Mixing()
    with pytest.raises(CorpusError, match="use a tokenizer that adds them around the text"):
        text_blocks(corpus("abc"), mixing)


# --- mistakes


@pytest.mark.parametrize("template", sorted(TEMPLATES))
def test_a_block_must_hold_two_tokens_beside_the_special_ones(template: str) -> None:
    n_special = sum(TEMPLATES[template][1:])
    text_blocks(corpus("abc"), TOKENIZERS[template], block_size=n_special + 2)
    with pytest.raises(CorpusError, match=f"block size to at least {n_special + 2}$"):
        text_blocks(corpus("abc"), TOKENIZERS[template], block_size=n_special + 1)


def test_a_corpus_shorter_than_a_block_says_how_long_it_is() -> None:
    with pytest.raises(CorpusError) as caught:
        text_blocks(corpus("abcde"), letter_tokenizer())
    assert str(caught.value) == (
        "corpus prose.txt has only 7 tokens, fewer than one text block of 128; "
        "name a longer corpus or set a smaller block size"
    )


def test_a_corpus_of_special_tokens_only_is_refused() -> None:
    with pytest.raises(CorpusError, match="no text block with at least 2 tokens"):
        text_blocks(corpus("[PAD]" * 10), letter_tokenizer(), block_size=6)


# --- real tokenizers on real text


def load_tokenizer(name: str) -> PreTrainedTokenizerBase:
    tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(shared_model(name))
    return tokenizer


@pytest.mark.parametrize(
    ("model", "reference", "before", "after"),
    [
        ("rxnfp-bert-mlm", "rxnmapper_example_rxns.csv:rxn", "[CLS]", "[SEP]"),
        ("rxnmapper-albert-mlm", "rxnmapper_example_rxns.csv:rxn", "[CLS]", "[SEP]"),
        ("sapiens-roberta-vl", "antibody-light.fa", "<s>", "</s>"),
    ],
)
def test_examples_of_a_real_corpus_are_kept_whole(
    model: str, reference: str, before: str, after: str
) -> None:
    tokenizer = load_tokenizer(model)
    name, _, column = reference.partition(":")
    examples = load_corpus(f"{shared_data(name)}:{column}" if column else str(shared_data(name)))
    blocks = text_blocks(examples, tokenizer)
    encoded = [tokenizer(text)["input_ids"] for text in examples.texts]
    assert blocks.split_examples == sum(len(ids) > 128 for ids in encoded)
    assert max(map(len, blocks.ids)) <= 128
    found = {tuple(ids.tolist()) for ids in blocks.ids}
    assert all(tuple(ids) in found for ids in encoded if len(ids) <= 128)
    around = [tokenizer.convert_tokens_to_ids(token) for token in (before, after)]
    for ids, special in zip(blocks.ids, blocks.special, strict=True):
        assert [int(ids[0]), int(ids[-1])] == around
        assert np.flatnonzero(special).tolist() == [0, len(ids) - 1]


@pytest.mark.parametrize(
    "model", ["rxnfp-bert-mlm", "rxnmapper-albert-mlm", "sapiens-roberta-vl", "SmolLM2"]
)
def test_wikitext_is_cut_into_blocks_within_seconds(model: str) -> None:
    if model == "SmolLM2":
        tokenizer, before, after = load_smollm2(), 0, 0
    else:
        tokenizer, before, after = load_tokenizer(model), 1, 1
    wikitext = load_corpus(str(shared_data("wikitext-2-raw/wiki.test.raw")))
    started = time.process_time()
    blocks = text_blocks(wikitext, tokenizer)
    assert time.process_time() - started < 10  # 0.5 to 1.6 s where it was written
    assert {len(ids) for ids in blocks.ids} == {128}
    tokens = bare(tokenizer, wikitext.texts[0])
    kept = list(chain.from_iterable(cut(blocks, before, after)))
    assert kept == tokens[: len(tokens) - blocks.dropped_tokens]
    assert blocks.dropped_tokens < 128


def load_smollm2() -> PreTrainedTokenizerBase:
    package, _, file = smollm2_reference().removeprefix("pkg:").partition("/")
    spec = importlib.util.find_spec(package)
    assert spec is not None
    assert spec.origin is not None
    tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
        Path(spec.origin).parent, gguf_file=file
    )
    return tokenizer
