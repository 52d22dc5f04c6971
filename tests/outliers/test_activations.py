"""What the hooks report of a forward pass, against hooks on modules found by name, and by hand."""

import copy
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import fields
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from robustness.anatomy.anatomy import trace_anatomy
from robustness.anatomy.stacks import Stack
from robustness.errors import MeasurementError, RuleError, UnsupportedSite
from robustness.outliers.activations.inputs import dense_inputs
from robustness.outliers.activations.layer_hooks import Blocks
from robustness.outliers.activations.outputs import layer_outputs
from robustness.outliers.activations.spikes import spike_rounds
from robustness.outliers.rules.spikes import super_weight
from tests.support.checkpoints.hidden_states import Array, Hidden, summed_up
from tests.support.checkpoints.tiny_models import VOCABULARY, tiny_inputs, tiny_model

LENGTHS = (8, 5, 11)
LAYERS = 3


def text(*lengths: int) -> Blocks:
    rng = np.random.default_rng(0)
    return [rng.integers(3, VOCABULARY, length) for length in lengths]


def traced(architecture: str, **sizes: int) -> tuple[nn.Module, Stack]:
    model = tiny_model(architecture, **sizes)
    return model, trace_anatomy(model, tiny_inputs(architecture)).stack


def watched(
    model: nn.Module, names: list[str], blocks: Blocks, *, inputs: bool = False
) -> dict[str, list[Array]]:
    """What modules return (or take), per text block, through hooks of the test's own."""
    seen: dict[str, list[Array]] = {name: [] for name in names}

    def keep(name: str) -> Callable[..., None]:
        def hook(_: nn.Module, args: Any, output: Any) -> None:
            value = args if inputs else output
            value = value[0] if isinstance(value, tuple) else value
            seen[name].append(value.detach().double().numpy().reshape(-1, value.shape[-1]).copy())

        return hook

    with ExitStack() as hooks:
        for name in names:
            handle = model.get_submodule(name).register_forward_hook(keep(name))
            hooks.callback(handle.remove)
        for ids in blocks:
            with torch.no_grad():
                model(input_ids=torch.from_numpy(ids)[None])
    return seen


def everything(model: nn.Module) -> list[tuple[str, bytes]]:
    tensors = [*model.named_parameters(), *model.named_buffers()]
    return [(name, value.detach().numpy().tobytes()) for name, value in tensors]


def n_hooks(model: nn.Module) -> int:
    return sum(
        len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules()
    )


# ------------------------------------------------------------------------------ behind the layers


@pytest.mark.parametrize(
    ("architecture", "layers"),
    [
        ("bert", "bert.encoder.layer.{}"),
        ("llama", "model.layers.{}"),
        ("gpt2", "transformer.h.{}"),
        ("xlnet", "transformer.layer.{}"),  # time-major
    ],
)
@pytest.mark.parametrize("first", [True, False])
def test_layer_outputs_are_the_modules_outputs(
    architecture: str, layers: str, *, first: bool
) -> None:
    model, stack = traced(architecture)
    before, blocks = everything(model), text(*LENGTHS)
    lines: list[str] = []
    found = layer_outputs(model, stack, blocks, sentence_first=first, progress=lines.append)
    seen = watched(model, [layers.format(n) for n in range(LAYERS)], blocks)
    hidden: Hidden = list(seen.values())
    expected = summed_up(hidden, sentence_first=first)
    for field in fields(expected):
        value = getattr(expected, field.name)
        assert getattr(found, field.name) == pytest.approx(value, rel=1e-5, abs=1e-7), field.name
    assert lines == [f"{n}/3 text blocks read" for n in (1, 2, 3)]
    assert everything(model) == before
    assert n_hooks(model) == 0


def test_a_shared_layer_counts_as_often_as_it_runs() -> None:
    model, stack = traced("albert")
    found = layer_outputs(model, stack, text(8), sentence_first=True)
    with torch.no_grad():
        output: Any = model(input_ids=torch.from_numpy(text(8)[0])[None], output_hidden_states=True)
    hidden = [[state[0].double().numpy()] for state in output.hidden_states[1:]]
    assert found.highest == pytest.approx(summed_up(hidden).highest, rel=1e-5)


@pytest.mark.parametrize("read", ["outputs", "inputs", "spikes"])
def test_values_that_are_not_finite_are_refused_and_no_hook_stays(read: str) -> None:
    model, stack = traced("llama")
    with torch.no_grad():
        model.get_parameter("model.layers.1.mlp.down_proj.weight")[3, 0] = torch.inf
    readings: dict[str, Callable[[], object]] = {
        "outputs": lambda: layer_outputs(model, stack, text(8), sentence_first=False),
        "inputs": lambda: dense_inputs(model, stack, text(8), threshold=6.0),
        "spikes": lambda: spike_rounds(model, stack, text(8), threshold=50.0, max_rounds=1),
    }
    with pytest.raises(RuleError, match=r"layer [12] is not a finite number"):
        readings[read]()
    assert n_hooks(model) == 0


def test_another_number_of_layers_is_refused() -> None:
    model, _ = traced("llama")
    _, longer = traced("llama", n_layers=LAYERS + 1)
    with pytest.raises((MeasurementError, AttributeError, IndexError)):
        layer_outputs(model, longer, text(8), sentence_first=False)


# ------------------------------------------------------------------------------ dense layers

# Layers, and what attention and the FFN's expansion read in them, by the modules' names.
READ = {
    "bert": ("bert.encoder.layer", "attention.self.query", "intermediate.dense"),
    "distilbert": ("distilbert.transformer.layer", "attention.q_lin", "ffn.lin1"),
    "gpt2": ("transformer.h", "attn.c_attn", "mlp.c_fc"),
    # An FFN as wide as the model, so that nothing can be told by width.
    "gpt2-square": ("transformer.h", "attn.c_attn", "mlp.c_fc"),
    "llama": ("model.layers", "self_attn.q_proj", "mlp.gate_proj"),
    "opt": ("model.decoder.layers", "self_attn.q_proj", "fc1"),
    "olmo": ("model.layers", "self_attn.q_proj", "mlp.gate_proj"),  # norms without parameters
    "gpt-neox": ("gpt_neox.layers", "attention.query_key_value", "mlp.dense_h_to_4h"),
    "gptj": ("transformer.h", "attn.q_proj"),  # attention and FFN read the same
    "modernbert": ("model.layers", "attn.Wqkv", "mlp.Wi"),
}
OTHERS = ("albert", "bloom", "deberta", "falcon", "gemma2", "phi", "qwen3", "xlnet")


@pytest.mark.parametrize("architecture", READ)
def test_dense_inputs_are_what_attention_and_ffn_expansion_read(architecture: str) -> None:
    model, stack = traced(architecture)
    before, blocks = everything(model), text(*LENGTHS)
    found = dense_inputs(model, stack, blocks, threshold=1.0)
    layers, *readers = READ[architecture]
    names = [f"{layers}.{layer}.{name}" for layer in range(LAYERS) for name in readers]
    per_layer = len(readers)
    assert found.layer.tolist() == [n // per_layer for n in range(len(names))]
    assert (found.n_layers, found.positions) == (LAYERS, sum(LENGTHS))
    seen = watched(model, names, blocks, inputs=True)
    sizes = [abs(np.concatenate(parts)) for parts in seen.values()]
    assert found.largest == pytest.approx(np.array([size.max(axis=0) for size in sizes]), rel=1e-5)
    assert found.hits.tolist() == [(size >= 1.0).sum(axis=0).tolist() for size in sizes]
    assert everything(model) == before
    assert n_hooks(model) == 0


@pytest.mark.parametrize("architecture", OTHERS)
def test_every_layer_has_one_or_two_hidden_states_that_are_read(architecture: str) -> None:
    model, stack = traced(architecture)
    layers = dense_inputs(model, stack, text(8), threshold=6.0).layer.tolist()
    assert {layers.count(layer) for layer in range(LAYERS)} <= {1, 2}


# ------------------------------------------------------------------------------ spikes

LAYER, ROW, COLUMN = 1, 5, 9


def with_super_weight(architecture: str = "llama") -> tuple[nn.Module, Stack]:
    """One inner feature is always large, and one weight carries it into one dimension."""
    model, stack = traced(architecture)
    with torch.no_grad():
        if architecture == "llama":
            for name in ("gate_proj", "up_proj"):
                module = model.get_submodule(f"model.layers.{LAYER}.mlp.{name}")
                module.get_parameter("weight")[COLUMN] *= 60
            matrix = model.get_parameter(f"model.layers.{LAYER}.mlp.down_proj.weight")
            matrix[:, COLUMN] = 0
            matrix[ROW, COLUMN] = 40
        else:
            model.get_parameter(f"transformer.h.{LAYER}.mlp.c_fc.bias")[COLUMN] = 90
            matrix = model.get_parameter(f"transformer.h.{LAYER}.mlp.c_proj.weight")
            matrix[COLUMN] = 0
            matrix[COLUMN, ROW] = -40
    return model, stack


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])  # (out, in) and (in, out)
def test_a_planted_super_weight_is_found_and_taken_out(architecture: str) -> None:
    model, stack = with_super_weight(architecture)
    before, blocks = everything(model), text(*LENGTHS)
    rounds = spike_rounds(model, stack, blocks, threshold=50.0, max_rounds=5)
    found = super_weight(rounds)
    assert found.dims == (ROW,)
    (outlier,) = found.outliers
    assert outlier.layers == (LAYER,)
    (weight,) = outlier.details["weights"]
    assert (weight["layer"], weight["row"], weight["column"]) == (LAYER, ROW, COLUMN)
    assert len(rounds) == 2
    assert found.details["spikes_remain"] is False
    assert found.by_chance is None
    assert found.magnitude[0] != ROW
    assert everything(model) == before
    assert n_hooks(model) == 0


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_the_second_reading_is_that_of_a_model_without_the_weight(architecture: str) -> None:
    model, stack = with_super_weight(architecture)
    blocks = text(*LENGTHS)
    rounds = spike_rounds(model, stack, blocks, threshold=50.0, max_rounds=2)
    without = copy.deepcopy(model)
    name = stack.sites[LAYER].scale
    with torch.no_grad():
        place = (ROW, COLUMN) if architecture == "llama" else (COLUMN, ROW)
        without.get_parameter(name)[place] = 0
    for each, reading in zip((model, without), rounds, strict=True):
        names = [site.module for site in stack.sites]
        taken = watched(each, names, blocks, inputs=True)
        written = watched(each, names, blocks)
        for layer, name in enumerate(names):
            inputs, outputs = np.concatenate(taken[name]), np.concatenate(written[name])
            assert reading.column[layer] == abs(inputs).argmax() % inputs.shape[1]
            assert reading.input[layer] == pytest.approx(_furthest(inputs), rel=1e-5)
            assert reading.row[layer] == abs(outputs).argmax() % outputs.shape[1]
            assert reading.output[layer] == pytest.approx(_furthest(outputs), rel=1e-5)
            largest = abs(outputs).max(axis=0)
            assert reading.largest[layer] == pytest.approx(largest, rel=1e-5, abs=1e-6)


def _furthest(values: Array) -> float:
    return max(values.ravel().tolist(), key=abs)


def test_an_ordinary_model_has_no_super_weights() -> None:
    model, stack = traced("llama")
    rounds = spike_rounds(model, stack, text(8), threshold=50.0, max_rounds=5)
    assert len(rounds) == 1
    assert super_weight(rounds).dims == ()


def test_rounds_that_are_used_up_are_said() -> None:
    model, stack = with_super_weight()
    rounds = spike_rounds(model, stack, text(*LENGTHS), threshold=50.0, max_rounds=1)
    found = super_weight(rounds)
    assert found.details["spikes_remain"] is True
    assert found.rule.endswith("in 1 reading of the text, spikes remain")


@pytest.mark.parametrize("architecture", ["bert", "gemma2", "olmo2"])
def test_super_weights_need_a_dense_writer(architecture: str) -> None:
    model, stack = traced(architecture)
    with pytest.raises(UnsupportedSite, match="normalisation writes it; use another rule"):
        spike_rounds(model, stack, text(8), threshold=50.0, max_rounds=1)


def test_hooks_of_others_stay() -> None:
    model, stack = traced("bert")
    calls: list[Tensor] = []
    handle = model.register_forward_hook(lambda _, __, output: calls.append(output.logits))
    layer_outputs(model, stack, text(8), sentence_first=True)
    assert (len(calls), n_hooks(model)) == (1, 1)
    handle.remove()
