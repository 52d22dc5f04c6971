"""Simulated int8 against whole numbers in a plain loop, and a model that it wrecks."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from robustness.ablation.interventions import Intact, Quantized
from robustness.ablation.quantization import dense_int8, quantize, quantized
from robustness.anatomy.anatomy import trace_anatomy
from robustness.anatomy.live import dense_layers_of
from robustness.checks.quantization import share
from robustness.measurement.execution import Execution
from robustness.policy.policy import load_policy
from robustness.run.planning import make_plan
from robustness.scoring.block import causal_block
from robustness.scoring.forward import Scorer
from robustness.store.context import Context
from robustness.vetting import Vetting
from tests.support.checkpoints.checkpoint_folders import save_checkpoint, tiny_tokenizer
from tests.support.checkpoints.planted import (
    DOWN,
    GATE,
    LAYERS,
    PLANTED,
    UP,
    VOCABULARY,
    WIDTH,
    final_feature,
    planted_model,
    planted_text,
)
from tests.support.checkpoints.shared import shared_data, shared_model
from tests.support.checkpoints.tiny_models import tiny_inputs, tiny_model
from tests.support.plugin.plugin_support import Stubs, checks, read_json, run_pytest
from tests.support.records import plain_int8, reference

HUGE = 3
"""The dimension that carries nothing but size, see `wreckable`."""

KINDS = {
    "bert": ("bert.encoder", plain_int8.kind_in_bert),
    "gpt2": ("transformer.h", plain_int8.kind_in_gpt2),
    "llama": ("model.layers", plain_int8.kind_in_llama),
}


# --- numbers -------------------------------------------------------------------------------------


@given(st.lists(st.floats(-1e4, 1e4, width=32), min_size=1, max_size=40))
def test_what_comes_out_is_whole_numbers_and_half_a_step_off_at_most(values: list[float]) -> None:
    tensor = torch.tensor(values)
    integers, scale = quantize(tensor)
    assert torch.equal(integers, integers.round())
    assert integers.abs().max() <= 127
    assert integers.abs().max() == 127 or not tensor.abs().max() > 1e-30
    error = (integers.double() * scale.double() - tensor.double()).abs().max()
    assert error <= 0.5001 * scale.double() + 1e-30


def test_zeros_stay_zeros_and_what_is_not_finite_is_seen() -> None:
    assert torch.equal(quantize(torch.zeros(3))[0], torch.zeros(3))
    assert quantize(torch.tensor([1.0, math.nan]))[0].isnan().any()


@settings(max_examples=40)
@given(
    st.integers(0, 10_000),
    st.integers(1, 9),
    st.integers(1, 9),
    st.sets(st.integers(0, 8)),
    st.sets(st.integers(0, 8)),
)
def test_a_dense_layer_is_that_of_a_plain_loop(
    seed: int, n_in: int, n_out: int, some_in: set[int], some_out: set[int]
) -> None:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(2, 3, n_in, generator=generator) * 10
    weight = torch.randn(n_out, n_in, generator=generator)
    reads = sorted(n for n in some_in if n < n_in)
    writes = sorted(n for n in some_out if n < n_out)
    expected = plain_int8.PlainInt8(weight, None, reads, writes)(x)
    found = dense_int8(
        x, weight, reads=torch.tensor(reads).long(), writes=torch.tensor(writes).long()
    )
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_sparing_everything_is_the_intact_layer() -> None:
    x, weight = torch.randn(4, 6), torch.randn(5, 6)
    everything, nothing = torch.arange(6), torch.arange(0)
    expected = x @ weight.T
    torch.testing.assert_close(dense_int8(x, weight, reads=everything, writes=nothing), expected)
    found = dense_int8(x, weight, reads=nothing, writes=torch.arange(5))
    torch.testing.assert_close(found, expected)
    assert not torch.allclose(dense_int8(x, weight, reads=nothing, writes=nothing), expected)


@pytest.mark.parametrize("spared", [(), (1, 5)])
@pytest.mark.parametrize("architecture", sorted(KINDS))
def test_a_whole_model_is_that_of_a_plain_loop(architecture: str, spared: tuple[int, ...]) -> None:
    model: Any = tiny_model(architecture)
    inputs = tiny_inputs(architecture, rows=1)
    layers, kind = KINDS[architecture]
    plain = plain_int8.in_int8(model, layers, kind, list(spared))
    dense = dense_layers_of(model, trace_anatomy(model, inputs).stack)
    with torch.no_grad():
        expected, intact = plain(**inputs).logits, model(**inputs).logits
        with quantized(model, dense, spared):
            found = model(**inputs).logits
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    assert (found - intact).abs().max() > 20 * (found - expected).abs().max()


def test_reduced_precision_leaves_the_integers_exact() -> None:
    model: Any = tiny_model("bert")
    dense = dense_layers_of(model, trace_anatomy(model, tiny_inputs("bert")).stack)
    module, x = model.bert.encoder.layer[0].intermediate.dense, torch.randn(1, 5, 16)
    with torch.no_grad(), quantized(model, dense):
        exact = module(x)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert torch.equal(module(x), exact)
            assert module(x.bfloat16()).dtype == torch.bfloat16
    assert not torch.equal(module(x), exact)


# --- the model is left as it was -----------------------------------------------------------------


def test_the_model_is_the_same_afterwards_bit_by_bit_also_after_an_exception() -> None:
    model: Any = tiny_model("bert")
    inputs = tiny_inputs("bert", rows=1)
    dense = dense_layers_of(model, trace_anatomy(model, inputs).stack)
    accelerated = model.bert.encoder.layer[0].output.dense
    own_forward = accelerated.forward
    accelerated.forward = own_forward  # something else has replaced it before
    before = {name: value.clone() for name, value in model.state_dict().items()}
    attributes = [dict(vars(module)) for module in model.modules()]
    versions = [parameter._version for parameter in model.parameters()]
    logits = model(**inputs).logits
    with quantized(model, dense), torch.no_grad():
        assert not torch.equal(model(**inputs).logits, logits)
        assert all(torch.equal(model.state_dict()[name], value) for name, value in before.items())
    with pytest.raises(ZeroDivisionError), quantized(model, dense):
        _ = 1 / 0
    assert [parameter._version for parameter in model.parameters()] == versions
    assert [vars(module).keys() for module in model.modules()] == [a.keys() for a in attributes]
    assert accelerated.forward is own_forward
    assert torch.equal(model(**inputs).logits, logits)


def test_contexts_can_be_nested() -> None:
    model: Any = tiny_model("llama")
    inputs = tiny_inputs("llama", rows=1)
    dense = dense_layers_of(model, trace_anatomy(model, inputs).stack)
    with torch.no_grad():
        with quantized(model, dense):
            outer = model(**inputs).logits
            with quantized(model, dense, spared=range(16)):
                inner = model(**inputs).logits
            assert torch.equal(model(**inputs).logits, outer)
        assert not torch.equal(inner, outer)
    assert not any("forward" in vars(module) for module in model.modules())


# --- a model that int8 wrecks --------------------------------------------------------------------


def wreckable() -> Any:
    """The planted model with one more feature that is huge, constant, and read by nobody.

    Beside it, the feature that everything depends on is smaller than half a step of int8: the
    gates stay shut, nothing is written, and all logits are 0.
    """
    model = planted_model()
    huge = 1000.0
    with torch.no_grad():
        model.model.embed_tokens.weight[:, HUGE] = huge
        for layer in model.model.layers:
            layer.input_layernorm.weight.fill_(huge)
            layer.post_attention_layernorm.weight.fill_(huge)
        # All layers now read the same, about (√D, 0 …), and write as much; the head shall see what
        # it was made for.
        first = math.sqrt(WIDTH)
        gate = GATE * first
        planted = LAYERS * DOWN * gate / (1 + math.exp(-gate)) * UP * first
        model.model.norm.weight.fill_(final_feature() / planted * huge / first)
        for layer in model.model.layers:
            for module in layer.modules():
                if isinstance(module, nn.Linear) and module.in_features == WIDTH:
                    module.weight[:, HUGE] = 0
            down = layer.mlp.down_proj.weight
            down[HUGE, 1] = down[PLANTED, 0]  # an inner unit that is never active: an outlier row
    return model


@pytest.fixture(scope="module")
def wrecked(tmp_path_factory: pytest.TempPathFactory) -> Vetting:
    root = tmp_path_factory.mktemp("wrecked")
    save_checkpoint(root / "model", wreckable(), tiny_tokenizer(VOCABULARY))
    (root / "text.txt").write_text(planted_text())
    policy = load_policy(None, options={"corpus": str(root / "text.txt"), "block_size": 32})
    run = make_plan([str(root / "model")], policy, Context(root=root / "store"))
    (only,) = run.checkpoints
    return Vetting(
        checkpoint=only.load(), settings=only.settings, context=Context(root=run.store_root)
    )


def test_an_outlier_wrecks_int8_and_sparing_it_mends_it(wrecked: Vetting) -> None:
    assert wrecked.outliers().dims == (HUGE, PLANTED)
    verdict = wrecked.quantized().is_harmless(within=1.05)
    assert verdict.outcome == "fail"
    assert verdict.details.intact is not None
    intact = verdict.details.intact.perplexity
    assert intact is not None
    assert intact < 20
    assert verdict.measured == pytest.approx(VOCABULARY / intact, rel=1e-5)  # a uniform guess
    int8 = verdict.details.int8
    assert int8 is not None
    assert int8.ratio == pytest.approx(verdict.measured, rel=1e-12)
    assert int8.ratio_without_outliers == pytest.approx(1, abs=2e-3)
    assert int8.share_of_outliers == pytest.approx(1, abs=2e-3)
    assert f"with dimensions {HUGE}, {PLANTED} left in float: x1" in verdict.reason
    assert verdict.reason.endswith(", 100% of the loss gone")


def test_the_measured_numbers_are_those_of_the_plain_loop(wrecked: Vetting) -> None:
    """With another outlier spared, so that what is left is neither wrecked nor mended."""
    measurement = wrecked.measurement
    intervention = Quantized(spared=(PLANTED,))
    (found,) = measurement.chunk(0, intervention)
    model: Any = wrecked.checkpoint.load_model(device="cpu")
    plain = plain_int8.in_int8(model, "model.layers", plain_int8.kind_in_llama, [PLANTED])
    for place, number in enumerate(measurement.order[:4].tolist()):
        ids = torch.from_numpy(measurement.scoring_plan._blocks.ids[number])[None]
        with torch.no_grad():
            logits = plain(input_ids=ids).logits[0, :-1].double()
        nll = -logits.log_softmax(-1).gather(1, ids[0, 1:, None]).sum()
        assert found.nll_nats[place] == pytest.approx(float(nll), rel=1e-5)


def test_a_harmless_model_passes(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "model", planted_model(), tiny_tokenizer(VOCABULARY))
    (tmp_path / "text.txt").write_text(planted_text())
    policy = load_policy(None, options={"corpus": str(tmp_path / "text.txt"), "block_size": 32})
    run = make_plan([str(tmp_path / "model")], policy, Context(root=tmp_path / "store"))
    (only,) = run.checkpoints
    vetting = Vetting(
        checkpoint=only.load(), settings=only.settings, context=Context(root=run.store_root)
    )
    verdict = vetting.quantized().is_harmless(within=1.05)
    assert verdict
    assert verdict.measured == pytest.approx(1, abs=0.02)
    assert verdict.details.blind_share is not None
    assert 0 < verdict.details.blind_share < 1
    with pytest.raises(TypeError, match=r"is no verdict: ask it \.is_harmless"):
        bool(vetting.quantized())


def test_results_do_not_depend_on_batches(wrecked: Vetting) -> None:
    measurement = wrecked.measurement
    chunk = measurement.scoring_plan.chunk(1)
    found = []
    for most_tokens in (32, 10_000):
        execution = Execution(
            load_model=lambda: wrecked.checkpoint.load_model(device="cpu"),
            scoring="causal",
            anatomy=wrecked.model_profile.anatomy,
            pad_id=0,
            device="cpu",
            threads=None,
        )
        (nll,), _ = execution.run(chunk, [Quantized(spared=(PLANTED,))], most_tokens, "float32")
        found.append(nll)
    np.testing.assert_array_equal(found[0], found[1])


def test_padding_does_not_matter_either() -> None:
    """Text blocks of different lengths, as lines have: each is measured as if it were alone."""
    model: Any = tiny_model("llama")
    stack = trace_anatomy(model, tiny_inputs("llama")).stack
    rows = [causal_block(np.arange(5, 5 + length)) for length in (20, 12)]
    with quantized(model, dense_layers_of(model, stack)):
        alone = [float(Scorer(model).nll_nats([row])[0]) for row in rows]
        together = Scorer(model).nll_nats(rows)
    assert together != pytest.approx(alone, rel=1e-6)  # why rows run alone


def test_shares_of_a_loss() -> None:
    assert share(2.0, 0.5) == 0.75
    assert share(2.0, 3.0) == -0.5  # sparing them made it worse
    assert share(0.0, 0.0) is None
    assert share(-1.0, 0.5) is None
    assert share(math.inf, 0.5) is None


def test_conditions_have_keys_of_their_own() -> None:
    keys = [Intact().key(), Quantized().key(), Quantized(spared=(HUGE,)).key()]
    assert len(set(map(repr, keys))) == 3


# --- the check -----------------------------------------------------------------------------------


def test_the_check_can_be_asked_for(stubs: Stubs, tmp_path: Path) -> None:
    result = run_pytest(
        tmp_path, *stubs.options, "--robustness-enable=quantization_is_harmless",
        "--robustness-json=report.json", "-k", "quantization",
    )  # fmt: skip
    assert result.ret in (0, 1)
    facts = read_json(tmp_path / "report.json")
    assert facts["comparisons"] == 6
    (check,) = checks(facts).values()
    assert check["id"].startswith("robustness/test_quantization.py::test_quantization_is_harmless[")
    assert check["id"].endswith("-int8]")
    assert (check["threshold"], check["passes"]) == (1.05, "below")
    assert check["details"]["int8"]["spared_dims"] == [7]
    assert "left in float" in "\n".join(result.outlines)


@pytest.mark.slow
def test_a_model_without_outliers_is_asked_all_the_same(stubs: Stubs, tmp_path: Path) -> None:
    result = run_pytest(
        tmp_path, f"--model={stubs.plain}", *stubs.surroundings,
        "--robustness-enable=quantization_is_harmless", "--robustness-json=report.json",
        "-k", "quantization",
    )  # fmt: skip
    assert result.ret == 0
    (check,) = checks(read_json(tmp_path / "report.json")).values()
    assert check["outcome"] == "pass"
    assert "int8" not in check["details"]


# --- a real checkpoint ---------------------------------------------------------------------------


def test_an_antibody_model_in_int8_is_that_of_the_plain_loop(tmp_path: Path) -> None:
    """Sapiens (RoBERTa): outliers 92 and 112."""
    path, corpus = shared_model("sapiens-roberta-vl"), str(shared_data("antibody-light.fa"))
    policy = load_policy(None, options={"corpus": corpus})
    run = make_plan([str(path)], policy, Context(root=tmp_path))
    (only,) = run.checkpoints
    vetting = Vetting(
        checkpoint=only.load(), settings=only.settings, context=Context(root=run.store_root)
    )
    measurement = vetting.measurement
    dims = vetting.outliers().dims
    interventions = [Quantized(), Quantized(spared=dims)]
    intact, *found = measurement.chunk(0, Intact(), *interventions)
    plain = reference.load(path)
    texts = reference.read_corpus(corpus, "lines")
    fingerprint = reference.fingerprint(texts, "lines")
    blocks = reference.text_blocks(texts, "lines", plain.tokenizer, 128)
    numbers = reference.measurement_order(len(blocks), 0, fingerprint)[:4]
    for intervention, measured in zip(interventions, found, strict=True):
        model = plain_int8.in_int8(
            plain.model, "roberta.encoder", plain_int8.kind_in_bert, list(intervention.spared)
        )
        checkpoint = replace(plain, model=model)
        for place, number in enumerate(numbers):
            nll, _ = reference.nll_of_block(checkpoint, blocks[number], 0, fingerprint)
            # What is in float is summed in another order, and a value that differs in the eighth
            # digit can fall on the other side of a rounding step.
            close = 0.1 if intervention.spared else 1e-5
            assert measured.nll_nats[place] == pytest.approx(nll, abs=close)
    tokens = intact.tokens.sum()
    ratios = [math.exp((each.nll_nats - intact.nll_nats).sum() / tokens) for each in found]
    assert all(1e-5 < abs(ratio - 1) < 0.01 for ratio in ratios)  # it is harmless, not nothing
