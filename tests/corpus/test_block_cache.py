"""A corpus is tokenised once: text blocks come out of the store as they went in."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from robustness.checkpoint.resolving import resolve
from robustness.corpus import blocks as blocks_module
from robustness.corpus.block_cache import from_record, to_record
from robustness.corpus.blocks import TextBlocks, text_blocks
from robustness.policy.policy import load_policy
from robustness.store.context import Context
from robustness.vetting import Vetting
from tests.corpus.test_blocks import TOKENIZERS, corpus, prose, templates
from tests.support.plugin.plugin_support import DIM, Stubs, save_stub


def _through_json(blocks: TextBlocks) -> TextBlocks:
    return from_record(json.loads(json.dumps(to_record(blocks))))


def _assert_same(found: TextBlocks, blocks: TextBlocks) -> None:
    for name in ("given", "begins_with", "split_examples", "dropped_tokens", "unknown_tokens"):
        assert getattr(found, name) == getattr(blocks, name)
    for name in ("ids", "special", "words"):
        theirs, ours = getattr(blocks, name), getattr(found, name)
        assert (ours is None) == (theirs is None)
        for one, other in zip(ours or (), theirs or (), strict=True):
            np.testing.assert_array_equal(one, other, strict=True)
    assert (found.sizes is None) == (blocks.sizes is None)
    if found.sizes is not None and blocks.sizes is not None:
        for name in ("tokens", "words", "utf8_bytes"):
            one, other = getattr(found.sizes, name), getattr(blocks.sizes, name)
            np.testing.assert_array_equal(one, other, strict=True)


@given(
    texts=st.lists(prose.filter(lambda text: len(text.strip()) > 1), min_size=1, max_size=4),
    template=templates,
    block_size=st.integers(6, 20),
    context=st.integers(0, 1),
)
def test_text_blocks_survive_the_store(
    texts: list[str], template: str, block_size: int, context: int
) -> None:
    blocks = text_blocks(
        corpus(*texts, layout="lines"),
        TOKENIZERS[template],
        block_size=block_size,
        context=context,
    )
    _assert_same(_through_json(blocks), blocks)


def test_so_do_those_of_a_tokenizer_that_tells_neither_words_nor_sizes() -> None:
    ids = (np.array([1, 2**31 - 1, 3]), np.array([4]))
    blocks = TextBlocks(
        ids=ids,
        special=tuple(each == 1 for each in ids),
        words=None,
        given=(1, 2),
        begins_with=None,
        sizes=None,
        split_examples=0,
        dropped_tokens=5,
        unknown_tokens=0,
    )
    _assert_same(_through_json(blocks), blocks)


def _layout(folder: Path, stubs: Stubs, store: Path) -> tuple[int, str]:
    options = {"corpus": str(stubs.corpus)}
    settings = load_policy(None, options=options).settings(str(folder))
    checkpoint = resolve(str(folder), cache=store)
    asked = Vetting(
        checkpoint=checkpoint, settings=settings, context=Context(root=store)
    ).measurement.scoring_plan
    return asked.layout.n_blocks, asked.text_blocks_sha256


def test_checkpoints_that_differ_in_their_weights_share_text_blocks(
    stubs: Stubs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = tmp_path / "store"
    first = _layout(stubs.model, stubs, store)

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("tokenised again")

    monkeypatch.setattr(blocks_module, "text_blocks", refuse)
    assert _layout(stubs.other, stubs, store) == first
    other = save_stub(tmp_path / "tokenizer", DIM)
    settings = json.loads((other / "tokenizer_config.json").read_text())
    (other / "tokenizer_config.json").write_text(json.dumps({**settings, "added": "something"}))
    with pytest.raises(AssertionError, match="tokenised again"):
        _layout(other, stubs, store)
