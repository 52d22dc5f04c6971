"""Pieces of the corpus with what the intact and the ablated model say about them."""

import json
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from robustness.checkpoint.checkpoint import Checkpoint
from robustness.checkpoint.resolving import resolve
from robustness.policy.policy import load_policy
from robustness.scoring.block import TextBlock, causal_block
from robustness.scoring.examples import MOST_CONTINUED, MOST_TOKENS, Guess, example, excerpt
from robustness.scoring.masked import masked_block
from robustness.scoring.sampling import BlockSeed, masked_positions
from robustness.store.context import Context
from robustness.vetting import Vetting
from tests.support.checkpoints.checkpoint_folders import save_checkpoint, tiny_model, tiny_tokenizer
from tests.support.plugin.plugin_support import DIM, Stubs

SENTENCES = (
    "The cat sat on a mat. It was r\u00e9sum\u00e9 day! "
    "\u65e5\u672c\u8a9e \U0001f600 <b>&amp;</b> \x1b[31m Why?\n"
)


def vetting_of(folder: Path, corpus: Path, store: Path, **options: Any) -> Vetting:
    settings = load_policy(None, options={"corpus": str(corpus), **options})
    return Vetting(
        checkpoint=resolve(str(folder), cache=store),
        settings=settings.settings("model"),
        context=Context(root=store),
    )


@pytest.fixture
def vetting(stubs: Stubs) -> Callable[..., Vetting]:
    return lambda **options: vetting_of(stubs.model, stubs.corpus, stubs.store, **options)


def text_of(found: dict[str, Any]) -> str:
    return "".join(piece["text"] for piece in found["pieces"])


def targets_of(found: dict[str, Any]) -> list[dict[str, Any]]:
    return [piece for piece in found["pieces"] if piece.get("target")]


# --- against plain transformers ------------------------------------------------------------------


@contextmanager
def zeroed(parameters: Sequence[torch.Tensor], dims: Sequence[int]) -> Iterator[None]:
    """Set parameters of features to 0 in place, for a while."""
    saved = [parameter.clone() for parameter in parameters]
    with torch.no_grad():
        for parameter in parameters:
            parameter[..., dims] = 0.0
        yield
        for parameter, before in zip(parameters, saved, strict=True):
            parameter.copy_(before)


def agrees(
    said: dict[str, Any], p_target: float, logits: torch.Tensor, true: int, tok: Any
) -> None:
    p = torch.softmax(logits.double(), -1)
    assert said["p"] == pytest.approx(float(p.max()), rel=1e-4)
    assert p_target == pytest.approx(float(p[true]), rel=1e-4)
    assert said["text"].strip() == tok.decode([int(p.argmax())]).strip()


def test_a_masked_models_guesses_are_those_of_plain_transformers(
    vetting: Callable[..., Vetting], stubs: Stubs
) -> None:
    asked = vetting()
    found = asked.examples([DIM], number=2)
    checkpoint = resolve(str(stubs.model), cache=stubs.store)
    model, tokenizer = checkpoint.load_model(device="cpu"), checkpoint.load_tokenizer()
    # Another way to the text blocks: 128 words each, as this tokenizer knows words only.
    words = stubs.corpus.read_text().split()
    norms = [layer.output.LayerNorm for layer in model.bert.encoder.layer]
    parameters = [p for norm in norms for p in (norm.weight, norm.bias)]
    assert [one["text_block"] for one in found] == asked.measurement.order[:2].tolist()
    for one in found:
        block = one["text_block"]
        text = words[128 * block : 128 * (block + 1)]
        ids = tokenizer.convert_tokens_to_ids(text)
        masked = masked_positions(
            np.zeros(128, dtype=bool), block_seed=BlockSeed(0, asked.corpus.fingerprint, block)
        ).tolist()
        shown = text_of(one).split()
        assert 1 < len(shown) <= MOST_TOKENS
        start = next(n for n in range(128) if text[n : n + len(shown)] == shown)
        places = [place for place in masked if start <= place < start + len(shown)]
        assert len(places) == len(targets_of(one)) > 0
        inputs = torch.tensor([ids])
        inputs[0, masked] = tokenizer.mask_token_id
        with torch.inference_mode(False), torch.no_grad():
            intact = model(input_ids=inputs).logits[0]
            with zeroed(parameters, [DIM]):
                ablated = model(input_ids=inputs).logits[0]
        for place, piece in zip(places, targets_of(one), strict=True):
            assert piece["text"].strip() == text[place]
            agrees(piece["intact"], piece["intact_p_target"], intact[place], ids[place], tokenizer)
            agrees(
                piece["ablated"], piece["ablated_p_target"], ablated[place], ids[place], tokenizer
            )
        assert (one["kind"], one["dims"], one["seed"]) == ("masked", [DIM], 0)


@pytest.fixture
def causal(tmp_path: Path, stubs: Stubs) -> Callable[..., Vetting]:
    model = tiny_model("GPT2LMHeadModel", vocab_size=64, hidden_size=32, n_positions=130)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=torch.manual_seed(1)))
    folder = save_checkpoint(tmp_path / "gpt2", model, tiny_tokenizer(64))
    return lambda **options: vetting_of(folder, stubs.corpus, tmp_path / "store", **options)


@pytest.mark.parametrize("context", [0, 64])
def test_a_causal_models_guesses_are_those_of_plain_transformers(
    causal: Callable[..., Vetting], stubs: Stubs, context: int
) -> None:
    asked = causal(context=context)
    (one,) = asked.examples([5, 9], number=1)
    checkpoint = asked.checkpoint
    model, tokenizer = checkpoint.load_model(device="cpu"), checkpoint.load_tokenizer()
    writers = [block.mlp.c_proj for block in model.transformer.h]
    parameters = [p for dense in writers for p in (dense.weight, dense.bias)]  # (in, out), (out,)
    words, block = stubs.corpus.read_text().split(), one["text_block"]
    begin = block * (128 - context)
    text = words[max(0, begin - 0) :][:128]
    shown = text_of(one).split()
    assert len(shown) == MOST_TOKENS
    start = next(n for n in range(128) if text[n : n + len(shown)] == shown)
    assert (start == 0) == (context == 0)
    ids = tokenizer.convert_tokens_to_ids(text)
    with torch.inference_mode(False), torch.no_grad():
        intact = model(input_ids=torch.tensor([ids])).logits[0]
        with zeroed(parameters, [5, 9]):
            ablated = model(input_ids=torch.tensor([ids])).logits[0]
    assert len(targets_of(one)) == MOST_CONTINUED
    end = start + len(shown)
    assert context == 0 or end - MOST_CONTINUED >= context
    for place, piece in zip(range(end - MOST_CONTINUED, end), targets_of(one), strict=True):
        assert piece["text"].strip() == text[place]
        true = ids[place]
        agrees(piece["intact"], piece["intact_p_target"], intact[place - 1], true, tokenizer)
        agrees(piece["ablated"], piece["ablated_p_target"], ablated[place - 1], true, tokenizer)
    assert one["kind"] == "continued"


# --- what is measured, and when ------------------------------------------------------------------


def test_they_are_kept_and_need_no_model_again(
    causal: Callable[..., Vetting], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = causal().examples([5])

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("the model or its tokenizer was loaded")

    monkeypatch.setattr(Checkpoint, "load_model", refuse)
    monkeypatch.setattr(Checkpoint, "load_tokenizer", refuse)
    assert causal().examples([5]) == first
    assert len(first) == 3
    for other in ({"dims": [6]}, {"dims": [5], "number": 2}, {"dims": [5], "mode": "mean"}):
        with pytest.raises(AssertionError, match="was loaded"):
            causal().examples(**other)


def test_none_are_measured_without_dimensions_or_when_none_are_wanted(
    vetting: Callable[..., Vetting], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Checkpoint, "load_model", None)
    assert vetting(examples=0).examples([DIM]) == []
    assert vetting().examples([]) == []


def test_by_default_they_are_about_the_outlier_dimensions(vetting: Callable[..., Vetting]) -> None:
    found = vetting().examples()
    assert [one["dims"] for one in found] == [[DIM]] * 3
    assert json.loads(json.dumps(found, allow_nan=False)) == found


@pytest.mark.parametrize("masking", ["bert", "pll", "pll-word-l2r"])
def test_every_masking_has_examples(vetting: Callable[..., Vetting], masking: str) -> None:
    (one,) = vetting(masking=masking).examples([DIM], number=1)
    assert 0 < len(targets_of(one)) <= MOST_TOKENS // 2


@pytest.mark.parametrize("class_name", ["XLNetLMHeadModel", "ElectraForPreTraining"])
def test_other_scorings_have_them_where_a_model_says_what_stands_in_a_place(
    class_name: str, tmp_path: Path, stubs: Stubs
) -> None:
    settings: dict[str, Any] = {"vocab_size": 64, "max_position_embeddings": 130}
    if class_name == "XLNetLMHeadModel":
        settings = {"vocab_size": 64, "d_inner": 24, "d_model": 16, "n_layer": 2, "n_head": 2}
        settings["d_head"] = 8
    folder = save_checkpoint(
        tmp_path / "model",
        tiny_model(class_name, **settings),
        tiny_tokenizer(64),
    )
    asked = vetting_of(folder, stubs.corpus, tmp_path / "store", block_size=32)
    found = asked.examples([3], number=2)
    assert len(found) == (2 if class_name.startswith("XLNet") else 0)
    for one in found:
        assert all(
            0 < piece["intact_p_target"] <= piece["intact"]["p"] for piece in targets_of(one)
        )


# --- text ----------------------------------------------------------------------------------------


def byte_level() -> Any:
    """A tokenizer whose tokens may be parts of characters."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=290, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    backend.train_from_iterator([SENTENCES], trainer)
    cls: Any = PreTrainedTokenizerFast
    return cls(tokenizer_object=backend)


def word_pieces() -> Any:
    """A tokenizer whose tokens say that they continue a word."""
    letters = sorted({c for c in SENTENCES if not c.isspace()})
    pieces = ["[UNK]", *letters, *(f"##{c}" for c in letters), "cat", "mat", "##at"]
    vocabulary = {piece: n for n, piece in enumerate(pieces)}
    backend = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece(cleanup=False)
    cls: Any = PreTrainedTokenizerFast
    return cls(tokenizer_object=backend, unk_token="[UNK]")


def decoder_of(tokenizer: Any) -> Callable[[Sequence[int]], str]:
    return lambda ids: str(tokenizer.decode(list(ids), clean_up_tokenization_spaces=False))


TOKENIZERS = {"bytes": byte_level(), "pieces": word_pieces()}


@pytest.mark.parametrize("kind", TOKENIZERS)
@given(data=st.data())
def test_the_pieces_of_an_example_are_its_text(kind: str, data: st.DataObject) -> None:
    tokenizer = TOKENIZERS[kind]
    decode = decoder_of(tokenizer)
    text = data.draw(st.text(SENTENCES, min_size=30, max_size=200))
    ids = np.array(tokenizer(text)["input_ids"], dtype=np.int64)
    special = np.isin(np.arange(len(ids)), sorted(data.draw(st.sets(st.integers(0, 60)))))
    if (~special).sum() < 2:
        return
    seed = BlockSeed(0, "f", data.draw(st.integers(0, 50)))
    scoring: Literal["masked", "causal"] = data.draw(st.sampled_from(["masked", "causal"]))
    given_ = data.draw(st.integers(1, max(1, len(ids) // 2)))
    row = (
        causal_block(ids, given=given_)
        if scoring == "causal"
        else masked_block(TextBlock(ids=ids, special=special, seed=seed), mask_id=0)
    )
    block = TextBlock(ids=ids, special=special, seed=seed, given=given_)
    shown = excerpt([row], block, scoring=scoring, decode=decode)
    if shown is None:
        assert scoring == "causal"
        return
    n_asked = sum(len(each.positions) for each in shown.rows)
    assert 0 < len(shown.targets) == n_asked
    assert len(shown.ids) <= MOST_TOKENS
    assert [shown.ids[t] for t in shown.targets] == [
        token for each in shown.rows for token in each.targets.tolist()
    ]
    vocabulary = st.integers(0, len(tokenizer) - 1)
    guesses = [Guess(token=data.draw(vocabulary), p=0.5, p_target=0.1) for _ in shown.targets]
    found = example(shown, guesses, guesses, decode=decode, dims=[1], seed=0)
    assert text_of(found) == decode(shown.ids)
    assert len(targets_of(found)) == len(shown.targets)
    json.dumps(found).encode("ascii")


def test_a_guess_stands_in_the_text_as_the_tokenizer_would_put_it() -> None:
    decode = decoder_of(TOKENIZERS["pieces"])
    (c, at, mat) = TOKENIZERS["pieces"].convert_tokens_to_ids(["c", "##at", "mat"])
    ids = np.array([mat, c, at])
    block = TextBlock(ids=ids, special=np.zeros(3, dtype=bool), seed=BlockSeed(0, "f", 7))
    shown = excerpt([causal_block(ids)], block, scoring="causal", decode=decode)
    assert shown is not None
    guesses = [Guess(token=mat, p=0.5, p_target=0.1)]
    nothing = [Guess(token=at, p=math.nan, p_target=math.nan)]
    found = example(shown, guesses, nothing, decode=decode, dims=[1], seed=0)
    assert found["pieces"][0] == {"text": "mat c"}
    assert found["pieces"][1]["text"] == "at"
    assert found["pieces"][1]["intact"]["text"] == " mat"
    assert found["pieces"][1]["ablated"]["text"] == ""
    assert found["text_block"] == 7


def test_whole_sentences_are_preferred() -> None:
    words = [
        "One",
        "two",
        "three",
        "four",
        "five",
        "six",
        "seven",
        "eight",
        "nine",
        "ten",
        "eleven",
        "twelve",
        ".",
    ]
    text = [*["x"] * 30, ".", *words, *["y"] * 60]
    vocabulary = sorted(set(text))
    ids = np.array([vocabulary.index(word) for word in text])
    special = np.zeros(len(ids), dtype=bool)

    def decode(some: Sequence[int]) -> str:
        return " ".join(vocabulary[one] for one in some)

    seen = set()
    for number in range(20):
        block = TextBlock(ids=ids, special=special, seed=BlockSeed(0, "f", number))
        row = masked_block(block, mask_id=0)
        shown = excerpt([row], block, scoring="masked", decode=decode)
        assert shown is not None
        seen.add(decode(shown.ids))
    assert seen == {" ".join(words), " ".join([*["x"] * 30, "."])}
