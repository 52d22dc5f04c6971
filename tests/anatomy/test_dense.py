"""The dense layers of many architectures, found by what they do, and the features they carry."""

import pytest
import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from robustness.anatomy.anatomy import trace_anatomy
from robustness.anatomy.dense import DenseLayer, dense_layers
from robustness.errors import UnsupportedArchitecture
from tests.support.checkpoints.tiny_models import ARCHITECTURES, tiny_inputs, tiny_model

KNOWN = {
    "bert": {
        "reads": {"query", "key", "value", "intermediate.dense"},
        "writes": {"attention.output.dense", "#.output.dense"},
    },
    "gpt2": {"reads": {"c_attn", "c_fc"}, "writes": {"attn.c_proj", "mlp.c_proj"}},
    "llama": {
        "reads": {"q_proj", "k_proj", "v_proj", "gate_proj", "up_proj"},
        "writes": {"o_proj", "down_proj"},
    },
    "gemma2": {
        "reads": {"q_proj", "k_proj", "v_proj", "gate_proj", "up_proj"},
        "writes": {"o_proj", "down_proj"},
    },
    "gpt-neox": {
        "reads": {"query_key_value", "dense_h_to_4h"},
        "writes": {"attention.dense", "dense_4h_to_h"},
    },
    "albert": {
        "reads": {"query", "key", "value", "ffn"},
        "writes": {"attention.dense", "ffn_output"},
    },
    "opt": {"reads": {"q_proj", "k_proj", "v_proj", "fc1"}, "writes": {"out_proj", "fc2"}},
    "bart": {  # the decoder is vetted: what reads the encoder's output carries other features
        "reads": {
            *(f"decoder.layers.#.self_attn.{name}_proj" for name in "qkv"),
            *("decoder.layers.#.encoder_attn.q_proj", "decoder.layers.#.fc1"),
        },
        "writes": {
            *("decoder.layers.#.self_attn.out_proj", "decoder.layers.#.encoder_attn.out_proj"),
            "decoder.layers.#.fc2",
        },
    },
    "t5": {
        "reads": {
            *(f"decoder.block.#.layer.#.SelfAttention.{name}" for name in "qkv"),
            "decoder.block.#.layer.#.EncDecAttention.q",
            "decoder.block.#.layer.#.DenseReluDense.wi",
        },
        "writes": {
            *(f"decoder.block.#.layer.#.{name}Attention.o" for name in ("Self", "EncDec")),
            "decoder.block.#.layer.#.DenseReluDense.wo",
        },
    },
}  # fmt: skip

QUICK = {*KNOWN, "xlnet", "deberta-v2", "mamba"}


def _found(architecture: str) -> tuple[nn.Module, tuple[DenseLayer, ...]]:
    model, inputs = tiny_model(architecture), tiny_inputs(architecture)
    return model, dense_layers(model, inputs, trace_anatomy(model, inputs).stack)


def _without_numbers(name: str) -> str:
    return ".".join("#" if part.isdecimal() else part for part in name.split("."))


@pytest.mark.parametrize(
    "architecture",
    [
        pytest.param(name, marks=() if name in QUICK else pytest.mark.slow)
        for name in sorted(ARCHITECTURES)
    ],
)
def test_all_linear_modules_of_the_layers_are_found_and_nothing_else(architecture: str) -> None:
    """Held against the classes that implement them, which the code under test never asks for."""
    model, inputs = tiny_model(architecture), tiny_inputs(architecture)
    anatomy = trace_anatomy(model, inputs)
    if architecture in {"flaubert", "xlm"}:  # whose layers are no modules
        with pytest.raises(UnsupportedArchitecture, match="no dense layers within its layers"):
            dense_layers(model, inputs, anatomy.stack)
        return
    executed: list[nn.Module] = []
    handles = [
        module.register_forward_hook(lambda module, *_: executed.append(module))
        for module in model.modules()
        if isinstance(module, nn.Linear | Conv1D)
    ]
    with torch.no_grad():
        model(**inputs)
    for handle in handles:
        handle.remove()
    layers = [
        model.get_submodule(layer.layer_module)
        for stack in anatomy.stacks
        for layer in stack.layers
    ]
    within = {inner for layer in layers for inner in layer.modules()}
    expected = {name for name, m in model.named_modules() if m in within and m in executed}
    found = dense_layers(model, inputs, anatomy.stack)
    assert {layer.module for layer in found} == expected
    for layer in found:
        module = model.get_submodule(layer.module)
        assert layer.weight == "weight"
        assert (layer.bias is None) == (module.bias is None)
        assert layer.out_axis == (0 if isinstance(module, nn.Linear) else 1)
        assert not (layer.reads and layer.writes)
        n_out, n_in = module.get_parameter("weight").shape[:: 1 if layer.out_axis == 0 else -1]
        assert n_in == anatomy.hidden_size or not layer.reads
        assert n_out == anatomy.hidden_size or not layer.writes


@pytest.mark.parametrize("architecture", sorted(KNOWN))
def test_which_layers_read_and_write_the_hidden_dimensions(architecture: str) -> None:
    _, found = _found(architecture)
    for attribute, ends in KNOWN[architecture].items():
        names = {_without_numbers(each.module) for each in found if getattr(each, attribute)}
        assert len(names) == len(ends)
        assert all(sum(name.endswith(end) for name in names) == 1 for end in ends), names


def test_a_model_without_dense_layers_is_refused() -> None:
    class Layer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.LayerNorm(8)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y: torch.Tensor = self.norm(x)
            return x + y

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Embedding(16, 8)
            self.layers = nn.ModuleList(Layer() for _ in range(3))

        def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
            x: torch.Tensor = self.embed(input_ids)
            for layer in self.layers:
                x = layer(x)
            return x

    model = Model()
    inputs = {"input_ids": torch.arange(16).reshape(2, 8)}
    stack = trace_anatomy(model, inputs).stack
    with pytest.raises(UnsupportedArchitecture, match="no dense layers within its layers"):
        dense_layers(model, inputs, stack)
