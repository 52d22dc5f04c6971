"""A GPU gives what the processor gives: values, verdicts, and what happens when memory ends."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from robustness.ablation.ablation import Ablation
from robustness.ablation.hooks import summed
from robustness.ablation.interventions import (
    FixedAblation,
    Intact,
    Intervention,
    PerBlockAblation,
    Quantized,
)
from robustness.anatomy.anatomy import trace_anatomy
from robustness.anatomy.live import live_sites
from robustness.measurement.batching import ACCELERATOR_TOKENS
from robustness.measurement.execution import Execution
from robustness.runtime.devices import chosen_dtype
from robustness.scoring.block import PlannedChunk, causal_block
from tests.support.checkpoints.shared import shared_data, shared_model
from tests.support.checkpoints.tiny_models import VOCABULARY, tiny_inputs, tiny_model
from tests.support.plugin.plugin_support import (
    Stubs,
    checks,
    in_every_state,
    read_json,
    run_suite,
    verdicts,
)

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")

KINDS = ["albert", "bert", "bloom", "gemma2", "gpt2", "llama", "opt"]
ABLATION = Ablation(dims=(3, 5))
CLOSE: dict[str, Any] = {"rtol": 1e-4, "atol": 1e-3}  # nats per text block of 12 or 20 tokens


def _chunk(n: int = 16) -> PlannedChunk:
    rng = np.random.default_rng(0)
    lengths = [20 if row % 2 else 12 for row in range(n)]
    return PlannedChunk.of([[causal_block(rng.integers(3, VOCABULARY, k))] for k in lengths])


def _execution(model: Any, kind: str, device: str) -> Execution:
    anatomy = trace_anatomy(model.cpu(), tiny_inputs(kind))
    return Execution(
        load_model=lambda: model.to(device),
        scoring="causal",
        anatomy=anatomy,
        pad_id=1,
        device=device,
        threads=None,
    )


def _both(kind: str, *interventions: Intervention, means: Any = None) -> list[list[Any]]:
    found = []
    for device in ("cpu", "cuda"):
        execution = _execution(tiny_model(kind), kind, device)
        nll, _ = execution.run(_chunk(), interventions, execution.most_tokens, "float32", means)
        found.append(nll)
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_values_are_those_of_the_processor(kind: str) -> None:
    per_block = PerBlockAblation(template=ABLATION, dims=tuple((row % 16,) for row in range(16)))
    cpu, cuda = _both(kind, Intact(), FixedAblation(ablation=ABLATION), per_block)
    np.testing.assert_allclose(cuda, cpu, **CLOSE)
    assert np.abs(cpu[1] - cpu[0]).max() > 0.01


@pytest.mark.parametrize("kind", ["bert", "llama"])
def test_so_are_means_layer_profiles_and_8_bit_values(kind: str) -> None:
    ablation = Ablation(dims=(3, 5), mode="mean")
    model = tiny_model(kind)
    anatomy = trace_anatomy(model, tiny_inputs(kind))
    sums = {}
    for device in ("cpu", "cuda"):
        with summed(model.to(device), anatomy.stack, ablation) as found, torch.no_grad():
            model(**{name: value.to(device) for name, value in tiny_inputs(kind).items()})
        sums[device] = {layer: each.total / each.count for layer, each in found.items()}
    for layer, mean in sums["cpu"].items():
        torch.testing.assert_close(sums["cuda"][layer], mean, rtol=1e-4, atol=1e-4)
    per_block = PerBlockAblation(template=ablation, dims=tuple((row % 16,) for row in range(16)))
    cpu, cuda = _both(kind, FixedAblation(ablation=ablation), per_block, means=sums["cpu"])
    np.testing.assert_allclose(cuda, cpu, **CLOSE)
    profiles = []
    for device in ("cpu", "cuda"):
        execution = _execution(tiny_model(kind), kind, device)
        layers = range(anatomy.stack.n_layers)
        each = [FixedAblation(ablation=Ablation(dims=(3,), layers=(layer,))) for layer in layers]
        profiles.append(execution.layer_by_layer(_chunk(), each, None))
    np.testing.assert_allclose(profiles[1], profiles[0], **CLOSE)
    cpu, cuda = _both(kind, Quantized(spared=(3,)))
    np.testing.assert_allclose(cuda, cpu, rtol=5e-3)  # a rounding can fall to the other side


def test_auto_takes_bfloat16_and_logits_stay_float32() -> None:
    assert chosen_dtype("auto", "cuda") == "bfloat16"
    execution = _execution(tiny_model("llama"), "llama", "cuda")
    full, reduced = (
        execution.run(_chunk(), [Intact()], execution.most_tokens, dtype)[0][0]
        for dtype in ("float32", "bfloat16")
    )
    assert not np.array_equal(full, reduced)
    np.testing.assert_allclose(reduced, full, rtol=0.02)
    assert all(parameter.dtype == torch.float32 for parameter in execution._model.parameters())


def test_memory_that_runs_out_halves_the_batch() -> None:
    config = transformers.BertConfig(
        vocab_size=VOCABULARY, hidden_size=256, num_hidden_layers=2, num_attention_heads=4,
        intermediate_size=4096, max_position_embeddings=512,
    )  # fmt: skip
    cls: Any = transformers.BertForMaskedLM
    execution = _execution(cls(config).eval(), "bert", "cuda")
    rng = np.random.default_rng(0)
    chunk = PlannedChunk.of([[causal_block(rng.integers(3, VOCABULARY, 512))] for _ in range(64)])
    (small,), _ = execution.run(chunk, [Intact()], 2048, "float32")
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(0).total_memory
    room = torch.cuda.memory_reserved() + 300 * 1024**2
    try:
        torch.cuda.set_per_process_memory_fraction(room / total)
        (found,), allowed = execution.run(chunk, [Intact()], 64 * 512, "float32")
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
        torch.cuda.empty_cache()
    assert 512 <= allowed < 64 * 512
    assert math.log2(64 * 512 / allowed).is_integer()
    np.testing.assert_allclose(found, small, rtol=1e-4)


def test_a_batch_is_as_large_as_pays_on_a_gpu() -> None:
    execution = _execution(tiny_model("bert"), "bert", "cuda")
    assert execution.most_tokens == ACCELERATOR_TOKENS


def test_a_model_in_training_is_read_where_it_is() -> None:
    before, after = (live_sites(tiny_model("bert").to(device)).read() for device in ("cpu", "cuda"))
    np.testing.assert_array_equal(after.scale, before.scale)
    state = torch.cuda.get_rng_state()
    live_sites(tiny_model("llama").to("cuda"))
    assert torch.equal(torch.cuda.get_rng_state(), state)


# --- whole runs ----------------------------------------------------------------------------------

EVERYTHING = (
    "--robustness-enable=layer_profile",
    "--robustness-enable=quantization_is_harmless",
    "--robustness-enable=magnitude_alone_is_harmless",
)


@in_every_state
@pytest.mark.parametrize("dtype", ["float32", "auto"])
def test_verdicts_are_those_of_the_processor(
    stubs: Stubs, tmp_path: Path, state: tuple[str, ...], dtype: str
) -> None:
    facts = {}
    for device in ("cpu", "cuda"):
        folder = tmp_path / device
        folder.mkdir()
        options = (f"--model={stubs.model}", f"--robustness-corpus={stubs.corpus}", *EVERYTHING)
        store = f"--robustness-store={tmp_path / 'store'}"
        precision = f"--robustness-dtype={dtype if device == 'cuda' else 'float32'}"
        run_suite(folder, *options, store, f"--robustness-device={device}", precision, *state)
        facts[device] = read_json(folder / "report.json")
    assert verdicts(facts["cuda"]) == verdicts(facts["cpu"])
    for name, check in checks(facts["cpu"]).items():
        if check["measured"]:
            assert checks(facts["cuda"])[name]["measured"] == pytest.approx(
                check["measured"], rel=0.05
            )


@pytest.mark.parametrize("name", ["sapiens-roberta-vl", "rxnfp-bert-mlm", "rxnmapper-albert-mlm"])
def test_a_real_checkpoint_has_the_same_verdicts(name: str, tmp_path: Path) -> None:
    model = shared_model(name)
    reactions = f"{shared_data('rxnmapper_example_rxns.csv')}:rxn"
    corpus = shared_data("antibody-light.fa") if name.startswith("sapiens") else reactions
    facts = {}
    for device in ("cpu", "cuda"):
        folder = tmp_path / device
        folder.mkdir()
        run_suite(
            folder,
            f"--model={model}",
            f"--robustness-corpus={corpus}",
            f"--robustness-store={tmp_path / 'store'}",
            f"--robustness-device={device}",
        )
        facts[device] = read_json(folder / "report.json")
    assert verdicts(facts["cuda"]) == verdicts(facts["cpu"])
    perplexity = [facts[device]["checkpoints"][0]["intact"]["perplexity"] for device in facts]
    assert perplexity[1] == pytest.approx(perplexity[0], rel=1e-4)
