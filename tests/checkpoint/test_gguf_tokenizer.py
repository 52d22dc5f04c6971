"""The tokenizer of a GGUF file against llama.cpp's, whose tokens are kept as data."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from robustness.checkpoint.checkpoint import Checkpoint
from robustness.checkpoint.gguf.tokenizer import gguf_tokenizer, pre_tokenizers
from robustness.checkpoint.resolving import resolve
from robustness.checkpoint.tokenization import load_tokenizer
from robustness.errors import CheckpointError
from tests.support import llama_cpp
from tests.support.checkpoints.checkpoint_folders import tiny_model
from tests.support.checkpoints.gguf_files import TOKENS, write_llama_gguf
from tests.support.checkpoints.real_files import REAL_FILES, found

VOCABULARIES = dict(llama_cpp.vocabularies(llama_cpp.kept()["merges"], pre_tokenizers()))

# Texts of which llama.cpp makes other tokens than the original's rule, which it only approaches:
# std::regex knows neither case nor marks beyond ASCII, and digits take along what stands before.
APPROACHED = {
    "deepseek-llm": {17},
    "deepseek-coder": {17},
    "youtu": {9},
    "tekken": {12, 13},
    **{name: {12, 13} for name in ("gpt-4o", "llama4", "kanana2", "talkie", "minimax-m2")},
    **{name: {1, 9} for name in ("tiny_aya", "cohere2moe")},
    "afmoe": {1, 5},
    # An ordinary word of this vocabulary, </s>, is special to llama.cpp by its spelling.
    "qwen_coder": {21, 22},
}


def small_file(folder: Path, **extra: Any) -> Path:
    model = tiny_model(
        "LlamaForCausalLM",
        vocab_size=len(extra.get("tokens", TOKENS)),
        num_attention_heads=4,
        num_key_value_heads=2,
        tie_word_embeddings=True,
    )
    return write_llama_gguf(folder / "small.gguf", model, **extra)


def kept_ids(name: str) -> list[list[int]]:
    kept = llama_cpp.kept()["vocabularies"]
    ids: list[list[int]] = next(entry["ids"] for entry in kept if name in entry["names"])
    return ids


def differing(tokenizer: Any, ids: list[list[int]]) -> set[int]:
    """The numbers of the texts of which it makes other tokens."""
    pairs = zip(tokenizer(llama_cpp.TEXTS)["input_ids"], ids, strict=True)
    return {n for n, (ours, theirs) in enumerate(pairs) if ours != theirs}


@pytest.mark.parametrize("name", VOCABULARIES)
def test_a_vocabulary_makes_the_tokens_that_llama_cpp_makes(name: str) -> None:
    tokenizer = gguf_tokenizer(VOCABULARIES[name], what=name)
    assert differing(tokenizer, kept_ids(name)) == APPROACHED.get(name, set())


def test_what_a_rule_says_beyond_llama_cpp() -> None:
    """Case and marks in every script, and digits in threes from the right: as the originals."""
    pieces = {
        ("tekken", "camelCase"): ["camel", "Case"],
        ("gpt-4o", "ne\u0301e"): ["ne\u0301e"],
        ("tiny_aya", "x 1234567"): ["x", " ", "1", "234", "567"],
    }
    for (name, text), expected in pieces.items():
        backend = gguf_tokenizer(VOCABULARIES[name], what=name).backend_tokenizer
        cut = [text[start:end] for _, (start, end) in backend.pre_tokenizer.pre_tokenize_str(text)]
        assert cut == expected


@pytest.mark.parametrize("name", ["smollm", "gemma4 kind", "llama kind, both around"])
def test_a_saved_tokenizer_is_the_same_whatever_the_model_beside_it(
    name: str, tmp_path: Path
) -> None:
    """For Qwen2 transformers would make one of its own of the vocabulary."""
    tokenizer = gguf_tokenizer(VOCABULARIES[name], what=name)
    tokenizer.save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "qwen2"}')
    again = load_tokenizer(tmp_path, what=name)
    assert again.backend_tokenizer.to_str() == tokenizer.backend_tokenizer.to_str()
    assert again.special_tokens_map == tokenizer.special_tokens_map
    text = llama_cpp.TEXTS[2]
    assert again.decode(again(text)["input_ids"], skip_special_tokens=True) == text


def test_a_vocabulary_without_endoftext_is_accepted_as_it_is(tmp_path: Path) -> None:
    tokens = ["<|begin_of_text|>", "<|end_of_text|>", *TOKENS[1:257], "th"]
    types = [3, 3] + [1] * 257
    file = small_file(tmp_path, pre="llama-bpe", tokens=tokens, token_types=types, merges=["t h"])
    checkpoint = resolve(str(file), cache=tmp_path / "cache")
    tokenizer = checkpoint.load_tokenizer()
    assert len(tokenizer) == checkpoint.vocab_size == len(tokens)
    assert tokenizer.convert_ids_to_tokens(tokenizer("th")["input_ids"]) == [tokens[0], "th"]


def test_a_pre_tokenizer_decides_how_digits_are_split(tmp_path: Path) -> None:
    tokens = [*TOKENS[:-1], "12"]
    made = {}
    for pre in ("gpt-2", "starcoder"):
        (tmp_path / pre).mkdir()
        file = small_file(tmp_path / pre, pre=pre, tokens=tokens, merges=["1 2"])
        tokenizer = resolve(str(file), cache=tmp_path / "cache").load_tokenizer()
        made[pre] = tokenizer.tokenize("1212")
    assert made == {"gpt-2": ["12", "12"], "starcoder": ["1", "2", "1", "2"]}


def without(key: str) -> Callable[[dict[str, Any]], object]:
    return lambda values: values.pop(f"tokenizer.ggml.{key}")


def having(**keys: Any) -> Callable[[dict[str, Any]], object]:
    return lambda values: values.update({f"tokenizer.ggml.{k}": v for k, v in keys.items()})


@pytest.mark.parametrize(
    ("kind", "spoil", "message"),
    [
        ("gpt-2", having(pre="unheard-of"), r"its pre-tokenizer 'unheard-of' .* is unknown"),
        ("llama kind", having(pre="unheard-of"), "'unheard-of'"),
        ("gpt-2", without("pre"), "tokenizer.ggml.pre: Field required"),
        ("gpt-2", having(model="rwkv"), "model: .*'gpt2', 'gemma4' or 'llama'"),
        ("gpt-2", having(model=7), "model"),
        ("gpt-2", having(added_tokens=["x"]), "the key tokenizer.ggml.added_tokens"),
        ("gpt-2", without("merges"), "merges: Field required"),
        ("gpt-2", having(merges=["a b", "zzz yyy"]), "zzz"),
        ("gpt-2", having(merges=["ab"]), "merges"),
        ("gpt-2", having(merges=[3]), "merges.0"),
        ("gpt-2", without("tokens"), "tokens"),
        ("gpt-2", having(tokens=[]), "tokens"),
        ("gpt-2", having(tokens=5), "tokens"),
        ("gpt-2", having(tokens=["a", "a"]), "a token stands twice"),
        ("gpt-2", having(token_type=[1, 1]), "token_type does not say one thing of each"),
        ("gpt-2", having(token_type="all"), "token_type"),
        ("gpt-2", having(bos_token_id=2**32 - 1), "bos_token_id is 4294967295, there are"),
        ("gpt-2", having(eos_token_id=-1), "eos_token_id"),
        ("gpt-2", having(padding_token_id=[1]), "padding_token_id"),
        ("gpt-2", having(add_bos_token="yes"), "add_bos_token"),
        ("gpt-2", having(add_space_prefix=True), "add_space_prefix is not for the kind gpt2"),
        ("llama kind", having(remove_extra_whitespaces=True), "remove_extra_whitespaces"),
        ("llama kind", without("scores"), "scores: Field required"),
        ("llama kind", having(scores=[0.5]), "scores does not say one thing of each"),
        ("llama kind", having(scores=[float("nan")] * 3), "scores.0"),
        (
            "nothing around",
            lambda v: (without("bos_token_id")(v), having(add_bos_token=True)(v)),
            "bos_token_id is missing",
        ),
    ],
)
def test_what_cannot_be_rebuilt_is_refused_in_a_sentence(
    kind: str, spoil: Callable[[dict[str, Any]], object], message: str
) -> None:
    values = dict(VOCABULARIES[kind])
    spoil(values)
    with pytest.raises(CheckpointError, match=message) as caught:
        gguf_tokenizer(values, what="model.gguf")
    said = str(caught.value)
    assert said.startswith("The tokenizer of model.gguf cannot be ")
    assert said.endswith(".")
    assert "\n" not in said


@pytest.mark.slow
@pytest.mark.parametrize("name", REAL_FILES)
def test_a_real_file_makes_the_tokens_and_likelihoods_that_llama_cpp_makes(
    name: str, tmp_path: Path
) -> None:
    file = found(REAL_FILES[name](), name)
    checkpoint = resolve(str(file), cache=tmp_path)
    kept = llama_cpp.kept()["files"][name]
    tokenizer = checkpoint.load_tokenizer()
    assert differing(tokenizer, kept["ids"]) == APPROACHED.get(name, set())
    ids = tokenizer(llama_cpp.corpus_text())["input_ids"]
    made = [nll_nats(checkpoint, piece) for piece in llama_cpp.windows(ids)]
    # llama.cpp looks Gemma's GELU up in a table of half precision.
    assert made == pytest.approx(kept["nll_nats"], rel=2e-4 if name == "gemma_270m" else 1e-5)


def nll_nats(checkpoint: Checkpoint, ids: list[int]) -> float:
    batch = torch.tensor([ids])
    with torch.no_grad():
        logits = checkpoint.load_model()(batch).logits[0, :-1].double()
    return float(torch.nn.functional.cross_entropy(logits, batch[0, 1:], reduction="sum"))


@pytest.mark.slow
def test_llama_cpp_still_says_what_is_kept(tmp_path: Path) -> None:
    """``tox -e verify``: where it is installed, of the version that is kept."""
    library = pytest.importorskip("llama_cpp", reason="needs llama-cpp-python (tox -e verify)")
    kept = llama_cpp.kept()
    assert library.__version__ == kept["llama_cpp_python"]
    assert llama_cpp.of_vocabularies(kept["merges"], tmp_path) == kept["vocabularies"]
    assert REAL_FILES.keys() == kept["files"].keys()
    for name, find in REAL_FILES.items():
        file = find()
        assert file is not None, f"{name} is not installed, so nothing is known of it"
        again = llama_cpp.of_file(file, tmp_path)
        assert again["ids"] == kept["files"][name]["ids"]
        assert again["nll_nats"] == pytest.approx(kept["files"][name]["nll_nats"], rel=1e-6)
