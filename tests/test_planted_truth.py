"""A model in which one dimension carries the whole prediction: every number is known beforehand.

The residual stream starts as e_0. Each layer's MLP writes a constant into dimension PLANTED, and
the head reads that dimension alone, so that the logits are c·h with a known h. Without the
dimension all logits are 0: a uniform guess, perplexity V. All other writers add exactly nothing,
although their weights are not 0.
"""

import math
from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from robustness.plan import RunPlan, make_plan
from robustness.policy import load_policy
from robustness.vetting import Vetting
from tests.checkpoint_folders import save_checkpoint, tiny_tokenizer

VOCABULARY, WIDTH, LAYERS, PLANTED = 32, 40, 3, 17
GATE, UP, DOWN, EPS = 0.3, 0.5, 1.5, 1e-6
WORDS = [f"w{n}" for n in range(VOCABULARY - 5)]


def _model() -> Any:
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=WIDTH,
        intermediate_size=24,
        num_hidden_layers=LAYERS,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=64,
        rms_norm_eps=EPS,
        pad_token_id=0,
        tie_word_embeddings=False,
    )
    model: Any = LlamaForCausalLM(config)
    model.eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        model.model.embed_tokens.weight.zero_()
        model.model.embed_tokens.weight[:, 0] = 1
        for layer in model.model.layers:
            layer.self_attn.o_proj.weight.zero_()
            for name, value in (("gate_proj", GATE), ("up_proj", UP)):
                weight = getattr(layer.mlp, name).weight
                weight.zero_()
                weight[0, 0] = value  # only inner unit 0 is ever active
            down = layer.mlp.down_proj.weight
            down.copy_(torch.randn(down.shape, generator=generator) * 0.01)
            down[:, 0] = 0
            down[PLANTED, 0] = DOWN
        model.lm_head.weight.zero_()
        model.lm_head.weight[:, PLANTED] = torch.tensor(_head())
    return model


def _head() -> list[float]:
    """Such that the logits are about the words' log-probabilities; ids below 5 are special."""
    logits = [-5.0] * 5 + [n * math.log(0.8) for n in range(len(WORDS))]
    return [logit / _final_feature() for logit in logits]


def _final_feature() -> float:
    """What the head sees in the planted dimension, by hand."""
    planted = 0.0
    for _ in range(LAYERS):
        first = 1 / math.sqrt((1 + planted**2) / WIDTH + EPS)  # RMSNorm of (1, …, planted, …)
        gate = GATE * first
        planted += DOWN * gate / (1 + math.exp(-gate)) * UP * first
    return planted / math.sqrt((1 + planted**2) / WIDTH + EPS)


def _text() -> str:
    rng = np.random.default_rng(0)
    weights = 0.8 ** np.arange(len(WORDS))
    return " ".join(rng.choice(WORDS, size=6000, p=weights / weights.sum()))


@pytest.fixture(scope="module")
def planned(tmp_path_factory: pytest.TempPathFactory) -> RunPlan:
    root = tmp_path_factory.mktemp("planted")
    folder = save_checkpoint(root / "model", _model(), tiny_tokenizer(VOCABULARY))
    (root / "text.txt").write_text(_text())
    options = {"corpus": str(root / "text.txt"), "block_size": 32}
    policy = load_policy(None, options=options)
    return make_plan([str(folder)], policy, store_root=root / "store")


@pytest.fixture(scope="module")
def vetting(planned: RunPlan) -> Vetting:
    (only,) = planned.checkpoints
    return Vetting(checkpoint=only.load(), settings=only.settings, store_root=planned.store_root)


def _known_perplexity(vetting: Vetting) -> float:
    """Of the constant prediction softmax(c·h), over all scored tokens of the corpus."""
    logits = _final_feature() * np.array(_head())
    log_probabilities = logits - np.log(np.exp(logits).sum())
    counts = Counter(token for ids in vetting.measurement._blocks.ids for token in ids[1:].tolist())
    nll = -sum(n * log_probabilities[token] for token, n in counts.items())
    return float(np.exp(nll / sum(counts.values())))


def test_the_rule_finds_the_planted_dimension(vetting: Vetting) -> None:
    assert vetting.outliers().dims == (PLANTED,)
    assert vetting.outliers()[0].layers == (0, 1, 2)


def test_intact_perplexity_is_the_known_value(vetting: Vetting) -> None:
    exhaustive = _exhaustive(vetting)
    verdict = exhaustive.intact().beats_uniform_guess()
    assert verdict
    assert verdict.details["intact_perplexity"] == pytest.approx(
        _known_perplexity(vetting), rel=1e-5
    )


def _exhaustive(vetting: Vetting) -> Vetting:
    settings = vetting.settings.model_copy(update={"exhaustive": True})
    return Vetting(checkpoint=vetting.checkpoint, settings=settings, store_root=vetting._store_root)


def test_without_the_dimension_perplexity_is_the_vocabulary_size(vetting: Vetting) -> None:
    verdict = _exhaustive(vetting).ablate(PLANTED).degrades(by=1.05)
    assert verdict
    assert verdict.exact
    assert verdict.ratio == pytest.approx(VOCABULARY / _known_perplexity(vetting), rel=1e-5)


def test_the_threshold_is_met_exactly_where_it_lies(vetting: Vetting) -> None:
    ratio = VOCABULARY / _known_perplexity(vetting)
    ablated = _exhaustive(vetting).ablate(PLANTED)
    assert ablated.degrades(by=ratio * 0.9999)
    assert not ablated.degrades(by=ratio * 1.0001)
    assert ablated.is_harmless(within=ratio * 1.0001)
    assert not ablated.is_harmless(within=ratio * 0.9999)


def test_every_other_dimension_is_harmless(vetting: Vetting) -> None:
    for dim in (0, 1, WIDTH - 1):
        assert _exhaustive(vetting).ablate(dim).is_harmless(within=1.000001).ratio == 1
    control = vetting.ablate_random(1).is_harmless(within=1.1)
    assert control
    assert control.ratio == 1
    assert vetting.ablate(PLANTED).matters_more_than_chance(factor=5)


def test_an_ablation_of_one_layer_leaves_the_others(vetting: Vetting) -> None:
    whole = _exhaustive(vetting).ablate(PLANTED).degrades(by=1.05)
    part = _exhaustive(vetting).ablate(PLANTED, layers=[1]).degrades(by=1.05)
    assert part.ratio is not None
    assert whole.ratio is not None
    assert 0.9 < part.ratio < whole.ratio


def test_early_verdicts_are_those_of_the_whole_corpus(vetting: Vetting) -> None:
    for threshold in (1.05, 1.5, 3.0):
        early = vetting.ablate(PLANTED).degrades(by=threshold)
        exact = _exhaustive(vetting).ablate(PLANTED).degrades(by=threshold)
        assert early.outcome == exact.outcome
        assert early.text_blocks < exact.text_blocks
