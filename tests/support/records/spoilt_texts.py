"""Policies and corpora, with something wrong in them, for their readers."""

import json
import re
from pathlib import Path
from typing import Any

from datasets import Dataset  # type: ignore[import-untyped]
from hypothesis import strategies as st

from robustness.corpus.corpus import load_corpus
from robustness.policy.policy import load_policy
from robustness.policy.settings import Settings
from tests.support.records.mutations import Arrange, Case, spoilt_bytes, spoilt_json

POLICY = """
expectation = "hardened"
confidence = 0.95
block_size = 64
corpus = "text.csv:column"

[rules.busters]
k = 2.5

[checks.ablation_degrades]
min_ratio = 1.2
enabled = true

[checkpoints."bert-*"]
seed = 3

[checkpoints."bert-*".checks.outliers_are_present]
min = 2
max = 9
"""

ODD_TOML = (
    b"[[checks]]\n",
    b"[checks]\n",
    b"a = " + b"[" * 3000 + b"\n",
    b"seed = " + b"9" * 5000 + b"\n",
    b"seed = nan\n",
    b"seed = 1979-05-27\n",
    b"a.b.c = 1\n",
    b"tool = 1\n",
    b'checkpoints = "x"\n',
    b'"\\u001b[2J" = 1\n',
    b'[checkpoints."\\u001b[2J"]\nsed = 1\n',
)


def policy_toml(folder: Path) -> Case:
    folder.mkdir()
    file = folder / "robustness.toml"
    content = POLICY.encode()
    lines = content.splitlines(keepends=True)
    shuffled = st.lists(st.sampled_from((*lines, *ODD_TOML)), max_size=12).map(b"".join)

    def read() -> None:
        policy = load_policy(file)
        assert 0.5 <= policy.confidence < 1
        found = policy.settings("bert-base", "bert-base")
        assert Settings.model_validate(found.model_dump()) == found
        policy.require_overrides_match(["bert-base"], ["bert-base"])

    inputs = st.one_of(spoilt_bytes(content), shuffled)
    return Case(file=file, valid=content, inputs=inputs, read=read)


def is_text(reference: str) -> None:
    corpus = load_corpus(reference)
    assert corpus.texts
    assert all(type(text) is str and text.strip() for text in corpus.texts)
    assert re.fullmatch("[0-9a-f]{64}", corpus.fingerprint)
    assert corpus.description.isprintable()


ROWS = [{"text": f"w1 w{n} ä", "id": "7", "\x1b[2J": None} for n in range(4)]
JSON_LINES = "".join(f"{json.dumps(row)}\n" for row in ROWS)


def corpus_bytes(name: str, content: bytes) -> Arrange:
    def arrange(folder: Path) -> Case:
        folder.mkdir()
        file = folder / name.partition(":")[0]
        return Case(
            file=file,
            valid=content,
            inputs=spoilt_bytes(content),
            read=lambda: is_text(str(folder / name)),
        )

    return arrange


def corpus_json(name: str) -> Arrange:
    def arrange(folder: Path) -> Case:
        folder.mkdir()
        value: Any = {"text": ["a", "b"], "id": ["1", None]} if "columns" in name else ROWS
        return Case(
            file=folder / name,
            valid=json.dumps(value).encode(),
            inputs=spoilt_json(value),
            read=lambda: is_text(f"{folder / name}:text"),
        )

    return arrange


def corpus_parquet(folder: Path) -> Case:
    folder.mkdir()
    file = folder / "a.parquet"
    Dataset.from_list([{"text": f"w{n}"} for n in range(40)]).to_parquet(file)
    content = file.read_bytes()
    inputs = spoilt_bytes(content)
    return Case(file=file, valid=content, inputs=inputs, read=lambda: is_text(f"{file}:text"))
