"""SentencePiece models, with something wrong in them, for the reader of tokenizers."""

import json
import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import strategies as st

from robustness.checkpoint.tokenization import load_tokenizer
from tests.support.records.mutations import Arrange, Case, spoilt_bytes

_TEXT = "the lazy dog walked home and 35 cats; tests of tokenizers: words, more"
_PIECES = 1200
"""Bytes at the beginning, where the pieces are; behind them are settings and a table of letters."""

T5 = {"vocab_size": 40, "pad_id": 0, "eos_id": 1, "unk_id": 2, "bos_id": -1}
LLAMA = {"vocab_size": 300, "model_type": "bpe", "byte_fallback": True}


def sentencepiece_file(name: str, kind: str, **trained: Any) -> Arrange:
    """A model of the library's own training, for a tokenizer of transformers."""

    def arrange(folder: Path) -> Case:
        library = pytest.importorskip("sentencepiece")
        folder.mkdir()
        lines = [" ".join(random.Random(n).sample(_TEXT.split(), 8)) for n in range(300)]
        prefix = str(folder / name.removesuffix(".model"))
        library.SentencePieceTrainer.train(
            sentence_iterator=iter(lines), model_prefix=prefix, minloglevel=2, **trained
        )
        settings = {"tokenizer_class": f"{kind.capitalize()}Tokenizer"}
        (folder / "tokenizer_config.json").write_text(json.dumps(settings))
        (folder / "config.json").write_text(json.dumps({"model_type": kind}))

        def read() -> None:
            tokenizer = load_tokenizer(folder, what="it")
            ids = tokenizer("the lazy  zebra\n")["input_ids"]
            assert all(0 <= number < len(tokenizer) for number in ids)

        content = (folder / name).read_bytes()
        inputs = st.one_of(spoilt_bytes(content, head=_PIECES), spoilt_bytes(content))
        return Case(file=folder / name, valid=content, inputs=inputs, read=read)

    return arrange
