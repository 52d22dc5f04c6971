"""Scoring against a plain loop: one text block at a time, full logits, float64 log-softmax."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from robustness.errors import MeasurementError, UnsupportedArchitecture
from robustness.scoring.block import ScoredBlock, TextBlock, causal_block
from robustness.scoring.forward import Scorer
from robustness.scoring.masked import masked_block
from robustness.scoring.sampling import BlockSeed
from tests.support.checkpoints.tiny_models import tiny_model

MASKED = ("albert", "bert", "distilbert", "roberta")
CAUSAL = ("gpt2", "llama", "gemma2", "cohere")  # the last two change the head's logits


def _plain_nll(model: Any, block: ScoredBlock) -> float:
    """One forward pass without batch, padding or hooks."""
    with torch.no_grad():
        logits = model(input_ids=torch.tensor(block.ids)[None]).logits[0]
    log_probabilities = torch.log_softmax(logits.double(), -1)
    pairs = zip(block.positions.tolist(), block.targets.tolist(), strict=True)
    return -sum(float(log_probabilities[position, target]) for position, target in pairs)


def _blocks(kind: str, lengths: list[int]) -> list[ScoredBlock]:
    rng = np.random.default_rng(len(lengths))
    blocks = []
    for number, length in enumerate(lengths):
        ids = rng.integers(3, 60, length)
        if kind in CAUSAL:
            blocks.append(causal_block(ids))
        else:
            special = np.zeros(length, dtype=bool)
            special[[0, -1]] = True
            text = TextBlock(ids=ids, special=special, seed=BlockSeed(0, "f", number))
            blocks.append(masked_block(text, mask_id=62))
    return blocks


@pytest.mark.parametrize("kind", [*MASKED, *CAUSAL])
@settings(max_examples=8, deadline=None)
@given(lengths=st.lists(st.integers(3, 20), min_size=1, max_size=6))
def test_a_batch_scores_what_the_plain_loop_scores(kind: str, lengths: list[int]) -> None:
    model = tiny_model(kind)
    blocks = _blocks(kind, lengths)
    expected = [_plain_nll(model, block) for block in blocks]
    assert Scorer(model, pad_id=1).nll_nats(blocks) == pytest.approx(expected, rel=1e-5, abs=1e-5)


@pytest.mark.parametrize("kind", ["bert", "llama"])
def test_logits_are_formed_for_scored_positions_only(kind: str) -> None:
    model: Any = tiny_model(kind)
    blocks = _blocks(kind, [20, 12])
    shapes = []
    head: Any = model.get_output_embeddings()
    handle = head.register_forward_hook(lambda *args: shapes.append(tuple(args[2].shape)))
    Scorer(model, pad_id=1).nll_nats(blocks)
    handle.remove()
    assert shapes == [(1, sum(len(block.positions) for block in blocks), 64)]
    assert not head._forward_pre_hooks


@pytest.mark.parametrize("kind", ["bert", "llama", "gemma2"])
def test_slices_of_positions_score_the_same(kind: str) -> None:
    model = tiny_model(kind)
    blocks = _blocks(kind, [20, 12, 9])
    scorer = Scorer(model, pad_id=1)
    whole = scorer.nll_nats(blocks)
    scorer.most_positions = 3
    assert scorer.nll_nats(blocks) == pytest.approx(whole, rel=1e-5)


def test_no_more_logits_exist_than_asked_for() -> None:
    model: Any = tiny_model("llama")
    shapes = []
    model.get_output_embeddings().register_forward_hook(
        lambda *args: shapes.append(tuple(args[2].shape))
    )
    scorer = Scorer(model, pad_id=1)
    scorer.most_positions = 4
    scorer.nll_nats(_blocks("llama", [12, 8]))
    assert all(n <= 4 for _, n, _ in shapes)
    assert sum(n for _, n, _ in shapes) == 11 + 7 + 4  # the first slice twice: is it the same?
    shapes.clear()
    scorer.nll_nats(_blocks("llama", [12, 8]))
    assert sum(n for _, n, _ in shapes) == 11 + 7  # it was, and is for good


def test_hooks_are_gone_after_an_exception() -> None:
    model: Any = tiny_model("llama")
    too_large = causal_block(np.array([1, 10**6, 3]))
    with pytest.raises(MeasurementError, match="IndexError"):
        Scorer(model).nll_nats([too_large])
    assert not model.get_output_embeddings()._forward_pre_hooks


def test_masked_blocks_keep_special_tokens_and_targets() -> None:
    ids = np.arange(10, 40)
    special = np.zeros(30, dtype=bool)
    special[[0, 29]] = True
    text = TextBlock(ids=ids, special=special, seed=BlockSeed(1, "f", 2))
    block = masked_block(text, mask_id=5)
    assert len(block.positions) == round(0.15 * 28)
    assert (block.ids[block.positions] == 5).all()
    assert (block.targets == ids[block.positions]).all()
    untouched = np.setdiff1d(np.arange(30), block.positions)
    assert (block.ids[untouched] == ids[untouched]).all()
    assert block.ids is not ids


def test_a_model_without_output_embedding_is_refused() -> None:
    with pytest.raises(UnsupportedArchitecture, match="no output embedding"):
        Scorer(torch.nn.Linear(2, 2))


def test_logits_of_a_head_that_is_read_in_another_way_are_selected_afterwards() -> None:
    model = tiny_model("llama")
    block = causal_block(np.arange(3, 13))

    class Wrapper(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def get_output_embeddings(self) -> Any:
            return torch.nn.Linear(1, 1)  # not the module that makes the logits

        def forward(self, **inputs: Any) -> Any:
            return self.model(**inputs)

    assert Scorer(Wrapper()).nll_nats([block]) == pytest.approx(Scorer(model).nll_nats([block]))


def test_what_a_model_raises_is_one_sentence() -> None:
    model = tiny_model("bert")
    block = causal_block(np.full(10, 10**6))
    with pytest.raises(
        MeasurementError, match="a forward pass of BertForMaskedLM failed"
    ) as caught:
        Scorer(model).nll_nats([block])
    assert ". " not in str(caught.value)
