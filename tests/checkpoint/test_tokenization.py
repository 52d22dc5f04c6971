"""Tokenizers that are only a SentencePiece model, and those that take the place of another."""

import json
import random
from pathlib import Path
from typing import Any

import pytest

from robustness.checkpoint.reading import ReadOptions
from robustness.checkpoint.resolving import resolve
from robustness.checkpoint.tokenization import load_tokenizer
from robustness.errors import CheckpointError
from tests.support.checkpoints import checkpoint_folders
from tests.support.checkpoints.checkpoint_folders import save_checkpoint, tiny_tokenizer

folder, cache = checkpoint_folders.folder, checkpoint_folders.cache

TEXTS = ("the lazy dog walked home", " and  35 cats", "words, more or less.", "zebra")


@pytest.fixture(scope="module")
def spiece(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A T5's tokenizer as it was saved before there were fast ones."""
    library = pytest.importorskip("sentencepiece")
    folder = tmp_path_factory.mktemp("spiece")
    text = "the lazy dog walked home and 35 cats; tests of tokenizers: words, more"
    words = text.split(" ")
    lines = [" ".join(random.Random(n).sample(words, 8)) for n in range(300)]
    library.SentencePieceTrainer.train(
        sentence_iterator=iter(lines),
        model_prefix=str(folder / "spiece"),
        vocab_size=40,
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        minloglevel=2,
    )
    (folder / "config.json").write_text(json.dumps({"model_type": "t5"}))
    return folder


def test_a_sentencepiece_model_gives_the_ids_of_its_own_library(spiece: Path) -> None:
    library = pytest.importorskip("sentencepiece")
    reader = library.SentencePieceProcessor(model_file=str(spiece / "spiece.model"))
    tokenizer = load_tokenizer(spiece, what="x")
    for text in TEXTS:
        assert tokenizer(text, add_special_tokens=False)["input_ids"] == reader.encode(text), text


def test_one_that_cuts_text_otherwise_is_refused(
    spiece: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    library = pytest.importorskip("sentencepiece")

    class Other(library.SentencePieceProcessor):  # type: ignore[misc, name-defined]
        def encode(self, text: str, *rest: Any, **more: Any) -> Any:
            return super().encode(text, *rest, **more)[1:]

    monkeypatch.setattr(library, "SentencePieceProcessor", Other)
    with pytest.raises(CheckpointError, match="does not cut text as its SentencePiece model"):
        load_tokenizer(spiece, what="x")


def test_without_the_package_its_extra_is_named(
    spiece: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(CheckpointError, match=r"pip install 'pytest-robustness\[sentencepiece\]'"):
        load_tokenizer(spiece, what="x")


@pytest.mark.parametrize("content", [b"\n", b"\n\x0e\n\x05<unk>\x15", b"\n" * 1000])
def test_a_damaged_one_is_one_sentence(content: bytes, tmp_path: Path) -> None:
    pytest.importorskip("sentencepiece")
    (tmp_path / "spiece.model").write_bytes(content)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "t5"}))
    with pytest.raises(CheckpointError, match="tokenizer of x") as refusal:
        load_tokenizer(tmp_path, what="x")
    assert "\n" not in str(refusal.value)


def test_another_tokenizer_is_used_noted_and_a_part_of_what_it_is(
    folder: Path, cache: Path
) -> None:
    other = folder.parent / "other"
    tokenizer = tiny_tokenizer(20)
    tokenizer.save_pretrained(other)
    own = resolve(str(folder), cache=cache)
    changed = resolve(str(folder), cache=cache, options=ReadOptions(tokenizer=str(other)))
    assert changed.note == f"the tokenizer is not its own but that of {other}"
    assert changed.identity == {**own.identity, "tokenizer": changed.tokenizer_hash}
    assert changed.tokenizer_hash != own.tokenizer_hash
    assert len(changed.load_tokenizer().get_vocab()) == 20
    assert type(changed).from_dict(changed.to_dict()) == changed


def test_another_tokenizer_that_does_not_fit_is_refused(folder: Path, cache: Path) -> None:
    larger = save_checkpoint(folder.parent / "larger", tokenizer=tiny_tokenizer(33))
    with pytest.raises(CheckpointError, match="ids up to 32, the embedding has 32 rows"):
        resolve(str(folder), cache=cache, options=ReadOptions(tokenizer=str(larger)))
    with pytest.raises(CheckpointError, match="no such folder"):
        resolve(str(folder), cache=cache, options=ReadOptions(tokenizer="./gone"))
