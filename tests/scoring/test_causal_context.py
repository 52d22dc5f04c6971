"""BOS, context and text sizes: against plain loops that use nothing of the package."""

import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from robustness.ablation.interventions import Intact
from robustness.corpus.blocks import TextBlocks, text_blocks
from robustness.corpus.corpus import Corpus, load_corpus
from robustness.corpus.special_tokens import Bos
from robustness.corpus.text_size import Span, normalised_perplexity, text_sizes
from robustness.errors import CorpusError, PolicyError
from robustness.policy.policy import load_policy
from robustness.run.plan import PlannedCheckpoint
from robustness.run.planning import make_plan
from robustness.scoring.options import ScoringOptions
from robustness.store.context import Context
from robustness.vetting import Vetting
from tests.scoring.test_masking import word_piece_tokenizer
from tests.support.checkpoints.checkpoint_folders import save_checkpoint, tiny_model

TINY_GPT2 = {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 40, "vocab_size": 64}


def byte_level_tokenizer(*, bos: bool = False, special: bool = True) -> Any:
    """GPT-2's kind of tokenizer, every byte a token; without pad, mask or unknown token."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {"<s>": 0, **{letter: 1 + n for n, letter in enumerate(alphabet)}}
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    if bos:
        backend.post_processor = processors.TemplateProcessing(
            single="<s> $A", special_tokens=[("<s>", 0)]
        )
    cls: Any = PreTrainedTokenizerFast  # partly untyped
    return cls(tokenizer_object=backend, **({"bos_token": "<s>"} if special else {}))


def sentencepiece_tokenizer() -> Any:
    """Llama's kind of tokenizer: white space is part of a word's first piece."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    letters = ["▁", *"abcdefghé東", *(f"▁{letter}" for letter in "abcdefghé東")]
    pieces = [("<unk>", 0.0), *((piece, -1.0 / len(piece)) for piece in letters)]
    backend = Tokenizer(models.Unigram(pieces, unk_id=0))
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    cls: Any = PreTrainedTokenizerFast  # partly untyped
    return cls(tokenizer_object=backend, unk_token="<unk>")


TOKENIZERS = {
    "byte-level": byte_level_tokenizer(),
    "sentencepiece": sentencepiece_tokenizer(),
    "word-piece": word_piece_tokenizer(),
}


def _corpus(folder: Path, text: str) -> Corpus:
    file = folder / "text.txt"
    file.write_text(text)
    return load_corpus(str(file))


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    rng = np.random.default_rng(0)
    words = ["".join(rng.choice(list("abcdefgh"), rng.integers(1, 9))) for _ in range(120)]
    return _corpus(tmp_path_factory.mktemp("text"), " ".join(words))


# --- BOS -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("has", "bos", "expected"),
    [
        (True, "auto", "<s>"), (True, "always", "<s>"), (True, "never", None),
        (False, "auto", None), (False, "always", "<s>"), (False, "never", None),
    ],
)  # fmt: skip
def test_bos_is_put_first_or_left_out(
    has: bool, bos: Bos, expected: str | None, corpus: Corpus
) -> None:
    blocks = text_blocks(corpus, byte_level_tokenizer(bos=has), block_size=16, bos=bos)
    first = expected is not None
    assert blocks.begins_with == expected
    for ids, special in zip(blocks.ids, blocks.special, strict=True):
        assert len(ids) == 16
        assert (ids[0] == 0) == special[0] == first
        assert not special[1:].any()
    text = b"".join(bytes(_byte(i) for i in ids[int(first) :]) for ids in blocks.ids)
    assert corpus.texts[0].encode().startswith(text)


def _byte(token: int) -> int:
    from tokenizers import pre_tokenizers

    letter = sorted(pre_tokenizers.ByteLevel.alphabet())[token - 1]
    return 32 if letter == "Ġ" else ord(letter)


def test_a_tokenizer_without_bos_cannot_put_it_first(corpus: Corpus) -> None:
    tokenizer = byte_level_tokenizer(special=False)
    assert text_blocks(corpus, tokenizer, bos="never", block_size=16).begins_with is None
    with pytest.raises(CorpusError, match="no token that begins a sequence"):
        text_blocks(corpus, tokenizer, bos="always", block_size=16)


def test_bos_never_keeps_what_is_no_bos(corpus: Corpus) -> None:
    assert text_blocks(corpus, word_piece_tokenizer(), bos="never").begins_with == "[CLS]"


# --- context -------------------------------------------------------------------------------------


def _planned(folder: Path, corpus: Corpus, **options: Any) -> PlannedCheckpoint:
    policy = load_policy(None, options={"corpus": corpus.reference, **options})
    (planned,) = make_plan([str(folder / "m")], policy, Context(root=folder / "store")).checkpoints
    return planned


def _vetting(folder: Path, corpus: Corpus, **options: Any) -> Vetting:
    planned = _planned(folder, corpus, **options)
    return Vetting(
        checkpoint=planned.load(), settings=planned.settings, context=Context(root=folder / "store")
    )


@pytest.fixture(scope="module")
def causal(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("causal")
    model = tiny_model("GPT2LMHeadModel", **{**TINY_GPT2, "vocab_size": 257})
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    save_checkpoint(folder / "m", model, byte_level_tokenizer())
    return folder


@pytest.mark.parametrize("bos", ["never", "always"])
@pytest.mark.parametrize("context", [0, 5])
def test_context_is_strided_perplexity(
    bos: str, context: int, causal: Path, corpus: Corpus
) -> None:
    """The sliding window of the transformers documentation: window 16, every token scored once."""
    vetting = _vetting(causal, corpus, block_size=16, bos=bos, context=context)
    measurement = vetting.measurement
    found = {}
    for index in range(measurement.n_chunks):
        (chunk,) = measurement.chunk(index, Intact())
        start = index * 16
        for block, nll, n in zip(
            measurement.order[start : start + 16], chunk.nll_nats, chunk.tokens, strict=True
        ):
            found[int(block)] = (nll, n)

    model = vetting.checkpoint.load_model()
    tokens = vetting.checkpoint.load_tokenizer()(corpus.texts[0])["input_ids"]
    head = [0] if bos == "always" else []
    window = 16 - len(head)
    expected, previous_end = [], 0
    for begin in range(0, len(tokens), window - context):
        end = begin + window
        if end > len(tokens):
            break
        ids = [*head, *tokens[begin:end]]
        with torch.no_grad():
            logits = model(torch.tensor([ids])).logits[0].double()
        scored = range(max(1, len(ids) - (end - previous_end)), len(ids))
        log_probabilities = torch.log_softmax(logits, -1)
        nll = -sum(float(log_probabilities[place - 1, ids[place]]) for place in scored)
        expected.append((pytest.approx(nll, rel=1e-5), len(scored)))
        previous_end = end
    assert [found[block] for block in range(len(found))] == expected


def test_context_needs_room_and_a_causal_model(corpus: Corpus) -> None:
    tokenizer = byte_level_tokenizer()
    with pytest.raises(CorpusError, match=r"0 special tokens and 15 of context; .* at least 17"):
        text_blocks(corpus, tokenizer, block_size=16, context=15)
    with pytest.raises(PolicyError, match="context = 8 changes nothing for bert"):
        ScoringOptions(context=8).require_suits("masked", label="bert")


def test_what_text_blocks_begin_with_is_noted(causal: Path, corpus: Corpus) -> None:
    def notes(**options: Any) -> str:
        return " ".join(_planned(causal, corpus, block_size=16, **options).notes)

    assert "begin without a special token, as the tokenizer has it" in notes()
    assert "begin with <s>, as asked for (bos)" in notes(bos="always")


# --- words and bytes -----------------------------------------------------------------------------

_TEXTS = st.text(st.sampled_from("abgé東 \n"), min_size=30, max_size=120).map(str.strip)


@pytest.mark.parametrize("kind", TOKENIZERS)
@given(text=_TEXTS.filter(lambda text: len(text) >= 20))
def test_text_blocks_share_out_all_words_and_bytes_of_a_text(kind: str, text: str) -> None:
    blocks = _lines(TOKENIZERS[kind], text, block_size=9)
    assert blocks.sizes is not None
    if blocks.dropped_tokens:
        return
    assert blocks.sizes.words.sum() == len(re.split(r"\s+", text))
    assert blocks.sizes.utf8_bytes.sum() == len(text.encode())
    ordinary = sum(int((~special).sum()) for special in blocks.special)
    assert blocks.sizes.tokens.sum() == ordinary


def _lines(tokenizer: Any, text: str, *, block_size: int) -> TextBlocks:
    corpus = Corpus(texts=(text,), layout="lines", reference="x", description="x", fingerprint="f")
    return text_blocks(corpus, tokenizer, block_size=block_size)


def test_perplexity_per_word_and_byte_is_that_of_the_evaluation_harness(
    causal: Path, corpus: Corpus
) -> None:
    vetting = _vetting(causal, corpus, block_size=16, bos="always", exhaustive=True)
    intact = vetting.intact().beats_uniform_guess().details.intact
    assert intact is not None
    found = intact.text
    assert found is not None
    model = vetting.checkpoint.load_model()
    text = corpus.texts[0]
    ids = vetting.checkpoint.load_tokenizer()(text)["input_ids"]
    measured = len(ids) - len(ids) % 15  # the rest fills no text block
    total = 0.0
    for start in range(0, measured, 15):
        row = [0, *ids[start : start + 15]]
        with torch.no_grad():
            logits = torch.log_softmax(model(torch.tensor([row])).logits[0].double(), -1)
        total -= sum(float(logits[place - 1, row[place]]) for place in range(1, 16))
    seen = text[:measured]  # one byte is one token
    words = len(re.split(r"\s+", seen.strip()))
    assert found.words == words
    assert found.utf8_bytes == measured
    assert found.word_perplexity == pytest.approx(math.exp(total / words), rel=1e-5)
    assert found.byte_perplexity == pytest.approx(math.exp(total / measured), rel=1e-5)
    assert found.bits_per_byte == pytest.approx(total / (measured * math.log(2)), rel=1e-5)


def test_a_text_without_words_has_no_word_perplexity() -> None:
    found = normalised_perplexity(2.0, tokens=3, words=0, utf8_bytes=6)
    assert found["word_perplexity"] is None
    assert found["byte_perplexity"] == pytest.approx(math.e)


_PARTED = {
    "English": "The house stands by the river, and nobody lives there any more.",
    "German": "Donaudampfschifffahrtsgesellschaft und so weiter",
    "Malayalam": "കേരളത്തിലെ പ്രധാനപ്പെട്ട നഗരങ്ങളിലൊന്നാണ് തിരുവനന്തപുരം",
    "code": "found = [obtain({'layout': 3}) for obtain in stores]",
    "tokens": "C c 1 c s c 2 n c ( - c 3 c c n o 3 )",
}
_UNPARTED = {
    "proteins": "DIQMTQSPSSLSASVGDRVTITCRASQSISSYLNWYQQKPGKAPKLLIYAASSL\n" * 3,
    "reactions": "Cc1csc2nc(-c3ccno3)nc(Cl)c12.NCc1ccc(F)cc1>>Cc1csc2nc(-c3ccno3)\n" * 3,
    "Chinese": "那座房子在河边。已经没有人住在那里了。\n夏天孩子们在那里玩。冬天那里没有人。",
    "minified code": "f=function(a,b){return(a||[]).concat(b||[]).map(c=>c*c)}",
}


@pytest.mark.parametrize("name", [*_PARTED, *_UNPARTED])
def test_perplexity_is_per_word_only_where_white_space_parts_words(name: str) -> None:
    text = (_PARTED | _UNPARTED)[name]
    n_bytes = len(text.encode())
    found = normalised_perplexity(2.0, tokens=30, words=len(text.split()), utf8_bytes=n_bytes)
    assert (found["word_perplexity"] is not None) == (name in _PARTED)
    assert found["byte_perplexity"] is not None


def test_without_offsets_only_whole_texts_have_a_size() -> None:
    whole = Span(text=0, first=0, end=3, tokens=2)
    sizes = text_sizes(["é b"], [3], [None], [whole])
    assert sizes is not None
    assert (sizes.words.tolist(), sizes.utf8_bytes.tolist()) == ([2], [4])
    assert text_sizes(["é b"], [3], [None], [Span(text=0, first=0, end=2, tokens=2)]) is None


def test_nothing_is_reported_per_word_where_sizes_are_unknown(causal: Path, corpus: Corpus) -> None:
    vetting = _vetting(causal, corpus, block_size=16)
    vetting.measurement.scoring_plan.__dict__["sizes"] = None
    intact = vetting.intact().beats_uniform_guess().details.intact
    assert intact is not None
    assert intact.text is None
    assert intact.perplexity is not None
    assert intact.perplexity > 1
