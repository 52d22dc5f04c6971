"""Encoder-decoder and permutation models against plain loops that use nothing of the package."""

import hashlib
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from robustness.ablation.ablation import Ablation
from robustness.ablation.interventions import FixedAblation, PerBlockAblation
from robustness.checkpoint.tokenization import sentinels
from robustness.policy.policy import load_policy
from robustness.run.planning import make_plan
from robustness.scoring.block import ScoredBlock, TextBlock
from robustness.scoring.forward import Scorer
from robustness.scoring.masked import Masking, permutation_rows
from robustness.scoring.sampling import BlockSeed, corrupted_spans
from robustness.scoring.seq2seq import infilling_block, span_block
from robustness.store.context import Context
from robustness.vetting import Vetting
from tests.scoring.test_masking import word_piece_tokenizer
from tests.support.checkpoints.checkpoint_folders import save_checkpoint
from tests.support.checkpoints.tiny_models import tiny_model

MASK, EOS, BOS = 63, 2, 0
SENTINELS = [62, 61, 60, 59, 58, 57, 56]
SEED = BlockSeed(3, "f", 5)


def _block(ids: Any, special: Any, words: Any = None) -> TextBlock:
    return TextBlock(ids=ids, special=special, seed=SEED, words=words)


def _number(label: str) -> int:
    return int(hashlib.sha256(label.encode()).hexdigest(), 16)


def _text(length: int, *, bos: bool) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    inner = np.random.default_rng(length).integers(3, 50, length)
    ids = np.array([*([BOS] if bos else []), *inner, EOS])
    special = np.isin(np.arange(len(ids)), [0, len(ids) - 1] if bos else [len(ids) - 1])
    return ids, special


def _parted(total: int, parts: int, name: str) -> list[int]:
    units = sorted(range(1, total), key=lambda u: _number(f"{name}:3:f:5:{u}"))
    ends = [*sorted(units[: parts - 1]), total]
    return [end - start for start, end in zip([0, *ends], ends, strict=False)]


def _plain_spans(n: int, share: float, most: int) -> list[list[int]]:
    """Indices among the text's tokens, as docs/PROTOCOL.md states them."""
    m = min(max(1, round(share * n)), n - 1)
    s = max(1, min(round(m / 3), n - m, most))
    spans, place = [], 0
    for kept, length in zip(_parted(n - m, s, "keep"), _parted(m, s, "span"), strict=True):
        place += kept
        spans.append(list(range(place, place + length)))
        place += length
    return spans


def _log_probabilities(model: Any, source: list[int], target: list[int], start: int) -> Any:
    """Log-softmax in float64 for every token of a decoder's target, (U, V)."""
    with torch.no_grad():
        logits = model(
            input_ids=torch.tensor([source]),
            decoder_input_ids=torch.tensor([[start, *target[:-1]]]),
        ).logits[0]
    return torch.log_softmax(logits.double(), -1)


def _plain_t5(model: Any, ids: list[int]) -> float:
    spans = _plain_spans(len(ids) - 1, 0.15, len(SENTINELS))
    source: list[int] = []
    target: list[int] = []
    scored = []
    inside = {index: number for number, span in enumerate(spans) for index in span}
    for index, token in enumerate(ids):
        number = inside.get(index)
        if number is None:
            source.append(token)
            continue
        if index == spans[number][0]:
            source.append(SENTINELS[number])
            target.append(SENTINELS[number])
        scored.append(len(target))
        target.append(token)
    target.append(EOS)
    found = _log_probabilities(model, source, target, model.config.decoder_start_token_id)
    return -sum(float(found[place, target[place]]) for place in scored)


def _plain_bart(model: Any, ids: list[int], start: int) -> float:
    spans = _plain_spans(len(ids) - 2, 0.3, len(ids))
    dropped = {index + 1 for span in spans for index in span[1:]}
    masked = {span[0] + 1 for span in spans}
    source = [
        MASK if index in masked else token
        for index, token in enumerate(ids)
        if index not in dropped
    ]
    found = _log_probabilities(model, source, ids, start)
    return -sum(float(found[place, ids[place]]) for place in range(1, len(ids) - 1))


LENGTHS = st.lists(st.integers(2, 30), min_size=1, max_size=4)


@pytest.mark.parametrize("kind", ["t5", "t5-gated"])
@settings(max_examples=6, deadline=None)
@given(lengths=LENGTHS)
def test_sentinels_are_scored_as_a_plain_loop_scores_them(kind: str, lengths: list[int]) -> None:
    model = tiny_model(kind)
    texts = [_text(length, bos=False) for length in lengths]
    blocks = [
        span_block(_block(ids, special), sentinels=SENTINELS, suffix=ids[-1:])
        for ids, special in texts
    ]
    expected = [_plain_t5(model, ids.tolist()) for ids, _ in texts]
    assert Scorer(model, pad_id=1).nll_nats(blocks) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("kind", ["bart", "mbart"])
@settings(max_examples=6, deadline=None)
@given(lengths=LENGTHS)
def test_infilling_is_scored_as_a_plain_loop_scores_it(kind: str, lengths: list[int]) -> None:
    model: Any = tiny_model(kind)
    texts = [_text(length, bos=True) for length in lengths]
    blocks = [infilling_block(_block(ids, special), mask_id=MASK) for ids, special in texts]
    # mBART's decoder starts with what ends the text (its language code), BART's with a fixed token.
    start = {"bart": model.config.decoder_start_token_id, "mbart": EOS}[kind]
    expected = [_plain_bart(model, ids.tolist(), start) for ids, _ in texts]
    assert Scorer(model, pad_id=1).nll_nats(blocks) == pytest.approx(expected, rel=1e-5)


@given(
    special=st.lists(st.booleans(), min_size=4, max_size=200).filter(lambda s: s.count(False) >= 2),
    share=st.sampled_from([0.15, 0.3]),
    most=st.none() | st.integers(1, 5),
    seed=st.integers(0, 99),
)
def test_spans_hold_the_share_of_tokens_and_none_that_is_special(
    special: list[bool], share: float, most: int | None, seed: int
) -> None:
    flags = np.array(special)
    n = special.count(False)
    spans = corrupted_spans(flags, share=share, most_spans=most, block_seed=BlockSeed(seed, "f", 0))
    inside = [position for start, end in spans for position in range(start, end)]
    assert len(inside) == len(set(inside)) == min(max(1, round(share * n)), n - 1)
    assert inside == sorted(inside)
    assert not flags[inside].any()
    assert all(after[0] > before[1] for before, after in pairwise(spans))
    if most is not None and not flags.any():
        assert len(spans) <= most


def test_sentinels_are_found_in_their_order() -> None:
    class Tokenizer:
        def get_vocab(self) -> dict[str, int]:
            return {"a": 0, "<extra_id_10>": 5, "<extra_id_2>": 9, "▁<extra_id_0>": 7, "<mask>": 1}

    assert sentinels(Tokenizer()) == [7, 9, 5]


# --- permutation ---------------------------------------------------------------------------------


def _plain_permutation(model: Any, ids: list[int], position: int, hidden: list[int]) -> float:
    perm_mask = torch.zeros(1, len(ids), len(ids))
    perm_mask[0, :, hidden] = 1
    asked = torch.zeros(1, 1, len(ids))
    asked[0, 0, position] = 1
    with torch.no_grad():
        logits = model(
            input_ids=torch.tensor([ids]), perm_mask=perm_mask, target_mapping=asked
        ).logits[0, 0]
    return -float(torch.log_softmax(logits.double(), -1)[ids[position]])


def _rows(ids: Any, special: Any, masking: Masking, words: Any = None) -> list[ScoredBlock]:
    return list(permutation_rows(_block(ids, special, words), masking=masking))


@settings(max_examples=6, deadline=None)
@given(lengths=LENGTHS)
def test_a_permutation_model_is_scored_as_a_plain_loop_scores_it(lengths: list[int]) -> None:
    model = tiny_model("xlnet")
    rows, expected = [], []
    for ids, special in (_text(length, bos=True) for length in lengths):
        inside = range(1, len(ids) - 1)
        chosen = sorted(inside, key=lambda p: _number(f"mask:3:f:5:{p}"))
        expected += [
            _plain_permutation(model, ids.tolist(), position, [position])
            for position in sorted(chosen[: max(1, round(0.15 * len(inside)))])
        ]
        rows += _rows(ids, special, "all")
    assert Scorer(model, pad_id=1).nll_nats(rows) == pytest.approx(expected, rel=1e-5)


def test_a_permutation_model_never_sees_the_token_that_it_predicts() -> None:
    model = tiny_model("xlnet")
    ids, special = _text(9, bos=True)
    for row in _rows(ids, special, "pll"):
        (position,) = row.positions
        other = row.ids.copy()
        other[position] = (other[position] + 1) % 50 + 3
        changed = ScoredBlock(
            ids=other, positions=row.positions, targets=row.targets, hidden=row.hidden
        )
        scorer = Scorer(model)
        assert scorer.nll_nats([changed]) == pytest.approx(scorer.nll_nats([row]), rel=1e-6)


def test_word_l2r_hides_the_rest_of_the_word_from_a_permutation_model() -> None:
    model = tiny_model("xlnet")
    ids, special = _text(5, bos=True)
    words = np.array([-1, 0, 0, 0, 1, 1, -1])
    hidden = {1: [1, 2, 3], 2: [2, 3], 3: [3], 4: [4, 5], 5: [5]}
    expected = [_plain_permutation(model, ids.tolist(), p, hidden[p]) for p in hidden]
    rows = _rows(ids, special, "pll-word-l2r", words)
    assert Scorer(model).nll_nats(rows) == pytest.approx(expected, rel=1e-5)


@pytest.fixture(scope="module")
def permutation_vetting(tmp_path_factory: pytest.TempPathFactory) -> Vetting:
    folder = tmp_path_factory.mktemp("xlnet")
    save_checkpoint(folder / "xlnet", tiny_model("xlnet"), word_piece_tokenizer())
    rng = np.random.default_rng(0)
    words = ["".join(rng.choice(list("abcdefg"), 3)) for _ in range(100)]
    (folder / "text.txt").write_text(" ".join(words))
    policy = load_policy(None, options={"corpus": str(folder / "text.txt"), "block_size": 14})
    store = folder / "store"
    (planned,) = make_plan([str(folder / "xlnet")], policy, Context(root=store)).checkpoints
    return Vetting(
        checkpoint=planned.load(), settings=planned.settings, context=Context(root=store)
    )


def test_an_ablation_reaches_the_stream_that_predicts(permutation_vetting: Vetting) -> None:
    """XLNet runs its output norms twice: once for the text, once for what is asked."""
    vetting, dim = permutation_vetting, 5
    measurement = vetting.measurement
    (fixed,) = measurement.chunk(0, FixedAblation(ablation=Ablation(dims=(dim,))))
    (rows,) = measurement.chunk(
        0, PerBlockAblation(template=Ablation(dims=(dim,)), dims=((dim,),) * 16)
    )
    assert rows.nll_nats == pytest.approx(fixed.nll_nats, rel=1e-5)

    model: Any = vetting.checkpoint.load_model()
    with torch.no_grad():
        for layer in model.transformer.layer:
            layer.ff.layer_norm.weight[dim] = 0
            layer.ff.layer_norm.bias[dim] = 0
    for place, block in enumerate(measurement.order[:16].tolist()):
        expected = sum(
            _plain_permutation(model, row.ids.tolist(), int(row.positions[0]), [row.positions[0]])
            for row in measurement.scoring_plan._questions.rows(block)
        )
        assert fixed.nll_nats[place] == pytest.approx(expected, rel=1e-5)
