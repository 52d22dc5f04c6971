"""The parameters at the sites, as rules read them."""

from typing import Any

import numpy as np
import pytest
from torch import nn

from robustness.anatomy.anatomy import trace_anatomy
from robustness.anatomy.parameters import site_parameters
from robustness.errors import CheckpointError
from tests.support.checkpoints.tiny_models import (
    tiny_inputs,
    tiny_model,
)


def values_of(model: nn.Module) -> dict[str, Any]:
    return {name: parameter.detach().numpy() for name, parameter in model.named_parameters()}


def test_a_norm_gives_its_parameters_as_they_stand() -> None:
    model = tiny_model("bert", n_layers=2)
    stack = trace_anatomy(model, tiny_inputs("bert")).stack
    values = values_of(model)
    parameters = site_parameters(stack, values.__getitem__)
    assert parameters.bias is not None
    for layer in range(2):
        name = f"bert.encoder.layer.{layer}.output.LayerNorm"
        np.testing.assert_array_equal(parameters.scale[layer], values[f"{name}.weight"])
        np.testing.assert_array_equal(parameters.bias[layer], values[f"{name}.bias"])
    assert parameters.scale.dtype == parameters.bias.dtype == np.float64
    assert parameters.distinct_sites == 2


@pytest.mark.parametrize("architecture", ["gpt2", "gpt2-square", "gptj", "llama"])
def test_a_dense_writer_gives_the_norm_of_the_weights_that_write_a_feature(
    architecture: str,
) -> None:
    model = tiny_model(architecture, n_layers=2)
    stack = trace_anatomy(model, tiny_inputs(architecture)).stack
    values = values_of(model)
    parameters = site_parameters(stack, values.__getitem__)
    for site in stack.sites:
        weight = values[site.scale].astype(np.float64)
        for feature in range(16):
            row = weight[:, feature] if architecture.startswith("gpt2") else weight[feature]
            assert parameters.scale[site.layer, feature] == pytest.approx(sum(row**2) ** 0.5)
    assert (parameters.bias is None) == (architecture == "llama")


def test_a_shared_site_is_read_once() -> None:
    model = tiny_model("albert", n_layers=4)
    stack = trace_anatomy(model, tiny_inputs("albert")).stack
    values, read = values_of(model), []

    def tensor(name: str) -> Any:
        read.append(name)
        return values[name]

    parameters = site_parameters(stack, tensor)
    assert parameters.scale.shape == (4, 16)
    assert parameters.distinct_sites == 1
    assert len(read) == len(set(read)) == 2


def test_a_tensor_of_another_shape_is_an_error_of_the_checkpoint() -> None:
    stack = trace_anatomy(tiny_model("llama"), tiny_inputs("llama")).stack
    with pytest.raises(CheckpointError, match=r"layers\.0\.mlp\.down_proj\.weight.*\(24, 16\)"):
        site_parameters(stack, lambda _: np.zeros((24, 16)))
