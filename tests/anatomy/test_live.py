"""Output sites of a model in memory: read where they lie, and nothing is disturbed."""

import pickle
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from robustness.anatomy.live import live_sites, unwrapped
from robustness.errors import UnsupportedArchitecture, UnsupportedSite
from tests.support.checkpoints.checkpoint_folders import tiny_model

MODELS = ("BertForMaskedLM", "GPT2LMHeadModel", "LlamaForCausalLM", "AlbertForMaskedLM")


def _by_hand(model: Any, name: str) -> tuple[np.ndarray, np.ndarray | None]:
    """Scale and bias per layer, from the modules that each architecture is known to end with."""
    if name == "GPT2LMHeadModel":
        dense = [layer.mlp.c_proj for layer in model.transformer.h]
        scale = [[_norm(d.weight[:, n].tolist()) for n in range(16)] for d in dense]
        return np.array(scale), np.array([d.bias.tolist() for d in dense])
    if name == "LlamaForCausalLM":
        dense = [layer.mlp.down_proj for layer in model.model.layers]
        return np.array([[_norm(row) for row in d.weight.tolist()] for d in dense]), None
    if name == "AlbertForMaskedLM":
        shared = model.albert.encoder.albert_layer_groups[0].albert_layers[0]
        norms = [shared.full_layer_layer_norm] * 2
    else:
        norms = [layer.output.LayerNorm for layer in model.bert.encoder.layer]
    return np.array([n.weight.tolist() for n in norms]), np.array([n.bias.tolist() for n in norms])


def _norm(row: list[float]) -> float:
    return float(sum(x * x for x in row) ** 0.5)


@pytest.mark.parametrize("name", MODELS)
def test_scale_and_bias_are_those_of_the_modules_that_write_the_layers_outputs(name: str) -> None:
    model = tiny_model(name)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    found = live_sites(model).read()
    scale, bias = _by_hand(model, name)
    np.testing.assert_allclose(found.scale, scale, rtol=1e-12)
    if bias is None:
        assert found.bias is None
    else:
        np.testing.assert_array_equal(found.bias, bias)
    assert found.distinct_sites == (1 if name == "AlbertForMaskedLM" else 2)


@pytest.mark.parametrize("name", MODELS)
def test_tracing_disturbs_nothing(name: str) -> None:
    model = tiny_model(name, attention_probs_dropout_prob=0.5).train()
    half = list(model.modules())[::2]
    for module in half:
        module.training = False
    for number, parameter in enumerate(model.parameters()):
        parameter.grad = torch.full_like(parameter, number)
    next(model.parameters()).requires_grad_(False)
    seen = []
    model.register_forward_hook(lambda *_: seen.append(1))

    def everything() -> dict[str, Any]:
        return {
            "state": {k: v.clone() for k, v in model.state_dict().items()},
            "versions": [p._version for p in model.parameters()],
            "grads": [None if p.grad is None else p.grad.clone() for p in model.parameters()],
            "grad addresses": [id(p.grad) for p in model.parameters()],
            "needs": [p.requires_grad for p in model.parameters()],
            "modes": [m.training for m in model.modules()],
            "hooks": [(len(m._forward_hooks), len(m._forward_pre_hooks)) for m in model.modules()],
            "attributes": [sorted(vars(m)) for m in model.modules()],
            "torch": torch.get_rng_state(),
            "python": random.getstate(),
            "numpy": list(np.random.get_state()),  # noqa: NPY002
            "grad mode": torch.is_grad_enabled(),
        }

    before = everything()
    live_sites(model).read()
    assert _same(before, everything())


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, torch.Tensor):
        return bool(torch.equal(a, b))
    if isinstance(a, np.ndarray):
        return bool(np.array_equal(a, b))
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(_same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(_same, a, b))
    return bool(a == b)


def test_random_states_are_given_back_when_a_forward_pass_uses_them() -> None:
    model = tiny_model()

    def draw(*_: object) -> None:
        torch.rand(3)
        random.random()
        np.random.rand()  # noqa: NPY002

    model.register_forward_pre_hook(draw)
    torch.manual_seed(7)
    random.seed(7)
    before = torch.get_rng_state(), random.getstate()
    live_sites(model)
    assert torch.equal(before[0], torch.get_rng_state())
    assert before[1] == random.getstate()


def test_parameters_are_held_by_reference_and_a_reading_is_small() -> None:
    model = tiny_model(hidden_size=32)
    sites = live_sites(model)
    own = {id(parameter) for parameter in model.parameters()}
    assert {id(parameter) for parameter in sites.parameters.values()} <= own
    assert len(pickle.dumps(sites.read())) < 4000
    with torch.no_grad():
        model.bert.encoder.layer[1].output.LayerNorm.bias[5] = 3.5
    bias = sites.read().bias
    assert bias is not None
    assert bias[1, 5] == 3.5
    assert all(parameter.grad_fn is None for parameter in sites.parameters.values())


def _compiled(model: nn.Module) -> Any:
    return torch.compile(model, backend="eager")


@pytest.mark.parametrize(
    "wrap",
    [
        pytest.param(_compiled, id="compiled"),
        pytest.param(nn.DataParallel, id="parallel"),
        pytest.param(lambda m: nn.DataParallel(_compiled(m)), id="compiled, then parallel"),
        pytest.param(lambda m: _compiled(nn.DataParallel(m)), id="parallel, then compiled"),
    ],
)
def test_wrappers_are_looked_through(wrap: Callable[[nn.Module], nn.Module]) -> None:
    model = tiny_model()
    wrapped = wrap(model)
    assert unwrapped(wrapped) is model
    np.testing.assert_array_equal(live_sites(wrapped).read().scale, live_sites(model).read().scale)


def test_distributed_training_is_looked_through() -> None:
    distributed: Any = torch.distributed
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    try:
        model = tiny_model()
        wrapped = nn.parallel.DistributedDataParallel(model)
        assert unwrapped(wrapped) is model
        before = torch.get_rng_state()
        assert {"scale", "bias"} <= vars(live_sites(wrapped).read()).keys()
        assert torch.equal(before, torch.get_rng_state())
    finally:
        distributed.destroy_process_group()


def test_reduced_precision_is_read_exactly() -> None:
    model = tiny_model().to(torch.bfloat16)
    norm = model.bert.encoder.layer[0].output.LayerNorm
    with torch.no_grad():
        norm.weight.add_(torch.randn(16).to(torch.bfloat16))
    np.testing.assert_array_equal(live_sites(model).read().scale[0], norm.weight.tolist())


def test_a_model_without_tokens_is_refused_in_one_sentence() -> None:
    with pytest.raises(UnsupportedArchitecture, match="no table of token embeddings"):
        live_sites(nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4)))


def test_a_parameter_that_lies_elsewhere_is_refused_in_one_sentence() -> None:
    model = tiny_model()
    sites = live_sites(model)
    weight = model.bert.encoder.layer[1].output.LayerNorm.weight
    weight.data = torch.empty(0)  # as DeepSpeed's third stage leaves it
    with pytest.raises(UnsupportedSite, match="does not lie whole in this process"):
        sites.read()
