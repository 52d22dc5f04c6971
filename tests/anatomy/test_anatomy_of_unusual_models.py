"""Models written for the traps of tracing: none of them resembles a known one in its names."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from numpy.typing import NDArray
from torch import Tensor, nn

from robustness.ablation.ablation import Ablation
from robustness.ablation.hooks import ablated
from robustness.anatomy.anatomy import trace_anatomy
from robustness.anatomy.parameters import site_parameters
from robustness.anatomy.probing import is_normalisation
from robustness.anatomy.stacks import Anatomy, Site
from robustness.anatomy.tracing import record
from robustness.errors import UnsupportedArchitecture, UnsupportedSite
from tests.support.checkpoints.tiny_models import (
    UNSUPPORTED,
    tiny_inputs,
    tiny_model,
)


class Weird(nn.Module):
    """A normalisation in behaviour only; its scale and bias have unhelpful names and order."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.zeta = nn.Parameter(torch.zeros(size))
        self.alpha = nn.Parameter(torch.ones(size))

    def forward(self, x: Tensor) -> Tensor:
        x = x - x.mean(-1, keepdim=True)
        return x * x.square().mean(-1, keepdim=True).rsqrt() * (2 + self.alpha) + self.zeta


class LayerNorm(nn.Module):
    """A dense layer in behaviour; only its name is that of a normalisation."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(size, size))

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.weight


class Fused(nn.Module):
    """A dense layer in one kernel that torch does not show, which returns a pair."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.kernel = nn.Parameter(torch.randn(size, size))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        with torch._C.DisableTorchFunction():
            return torch.zeros(1, dtype=torch.long), x @ self.kernel


class Mixer(nn.Module):
    """A minimal attention."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.values = nn.Linear(size, size)

    def forward(self, x: Tensor) -> Tensor:
        weights = torch.softmax(x @ x.transpose(-1, -2), -1)
        return weights @ self.values(x)  # type: ignore[no-any-return]


class Layer(nn.Module):
    """The parts of a layer; subclasses put them together."""

    def __init__(self, size: int, dense: type[nn.Module] | None = None) -> None:
        super().__init__()
        self.a = Weird(size)
        self.b = Weird(size)
        self.mix = Mixer(size)
        self.dense = dense(size) if dense is not None else nn.Linear(size, size, bias=False)


class PostNorm(Layer):
    def forward(self, x: Tensor) -> list[Tensor]:
        x = self.a(x + self.mix(x))
        return [self.b(x + self.dense(torch.tanh(x)))]


class InPlace(Layer):
    def forward(self, x: Tensor) -> dict[str, Tensor]:
        x = x.clone()
        x += self.mix(self.a(x))
        flat = x.view(-1, x.shape[-1])
        flat.add_(self.dense(torch.tanh(self.b(flat))), alpha=0.5)
        return {"hidden": x}


class TimeMajor(Layer):
    def forward(self, x: Tensor) -> tuple[Tensor]:
        x = x + self.mix(self.a(x))
        flat = self.b(x).transpose(0, 1).reshape(-1, x.shape[-1])
        written = self.dense(torch.tanh(flat))
        return (x + written.view(x.shape[1], x.shape[0], -1).transpose(0, 1),)


class WithPair(Layer):
    def forward(self, x: Tensor) -> tuple[Tensor]:
        x = x + self.mix(self.a(x))
        return (x + self.dense(torch.tanh(self.b(x)))[1],)


class NormedResidual(Layer):
    def forward(self, x: Tensor) -> tuple[Tensor]:
        x = x + self.mix(x)
        return (self.a(x) + self.dense(torch.tanh(self.b(x))),)


class Rescaled(nn.Module):
    """Holds a parameter of its own around another module with parameters."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(size))
        self.inner = nn.Linear(size, size)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.gain * self.inner(x)
        return y


class Constant(nn.Module):
    """Its output does not change when its input is scaled, nor otherwise."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.shift = nn.Parameter(torch.ones(size))

    def forward(self, x: Tensor) -> Tensor:
        return 0 * x + self.shift


class PreNorm(Layer):
    def forward(self, x: Tensor) -> tuple[Tensor]:
        x = x + self.mix(self.a(x))
        return (x + self.dense(torch.tanh(self.b(x))),)


class Reading(Layer):
    def forward(self, x: Tensor, other: Tensor) -> tuple[Tensor]:
        x = x + self.mix(self.a(x))
        x = x + self.mix.values(other)
        return (x + self.dense(torch.tanh(self.b(x))),)


class Narrow(Layer):
    def forward(self, x: Tensor) -> tuple[Tensor]:
        x = x + self.mix(self.a(x))
        return (x + self.dense(self.b(x).view(*x.shape[:-1], 2, -1)).view(x.shape),)


class Half(nn.Linear):
    def __init__(self, size: int) -> None:
        super().__init__(size // 2, size // 2)


class Parallel(Layer):
    def forward(self, x: Tensor) -> tuple[Tensor]:
        y = self.a(x)
        return ((x + self.dense(torch.tanh(y))) + self.mix(y),)


class TwoBranches(Layer):
    def forward(self, x: Tensor) -> tuple[Tensor]:
        return (x + self.dense(torch.tanh(self.a(x))) + self.mix.values(self.b(x)),)


class Gated(Layer):
    def forward(self, x: Tensor) -> tuple[Tensor]:
        x = x + self.mix(self.a(x))
        return (x + self.dense(x) * self.mix.values(x),)


class NoResidual(Layer):
    def forward(self, x: Tensor) -> tuple[Tensor]:
        return (self.dense(self.b(self.mix(self.a(x)))),)


class Model(nn.Module):
    """Layers under names of their own, called in reverse order of registration."""

    def __init__(self, layer: type[Layer], n: int = 3, dense: type[nn.Module] | None = None):
        super().__init__()
        self.table = nn.Embedding(50, 12)
        self.names = [f"part_{index}" for index in reversed(range(n))]
        for name in reversed(self.names):
            self.add_module(name, layer(12, dense))

    def forward(self, ids: Tensor) -> Tensor:
        x = self.table(ids)
        for name in self.names:
            output = getattr(self, name)(x)
            x = next(iter(output.values() if isinstance(output, Mapping) else output))
        return nn.functional.linear(x, self.table.weight)


WITH_X = (Weird, LayerNorm, Constant, Rescaled, nn.RMSNorm)
IDS = {"ids": torch.arange(16).reshape(2, 8)}


def test_a_normalisation_is_known_by_its_behaviour() -> None:
    stack = trace_anatomy(Model(PostNorm), IDS).stack
    assert stack.name == ""
    assert stack.sites[0] == Site(
        module="part_2.b",
        layer_module="part_2",
        execution=0,
        layer=0,
        kind="norm",
        scale="part_2.b.alpha",
        bias="part_2.b.zeta",
        feature_axis=0,
        batch_axis=0,
    )
    assert [site.module for site in stack.sites] == ["part_2.b", "part_1.b", "part_0.b"]


@pytest.mark.parametrize("dense", [None, LayerNorm])
def test_additions_in_place_are_seen(dense: type[nn.Module] | None) -> None:
    (site, *_) = trace_anatomy(Model(InPlace, dense=dense), IDS).stack.sites
    assert (site.module, site.kind, site.bias) == ("part_2.dense", "writer", None)
    assert site.flattened == "batch-major"
    assert site.feature_axis == (0 if dense is None else 1)


def test_a_site_may_return_other_things_beside_its_features() -> None:
    model = Model(WithPair, dense=Fused)
    stack = trace_anatomy(model, IDS).stack
    assert [site.scale for site in stack.sites] == [
        f"part_{index}.dense.kernel" for index in (2, 1, 0)
    ]
    assert stack.sites[0].feature_axis == 1
    seen = []
    with ablated(model, stack, Ablation(dims=(3,))), torch.no_grad():
        model.get_submodule("part_1.dense").register_forward_hook(
            lambda *args: seen.append(args[2])
        )
        model(**IDS)
    ((counter, features),) = seen
    assert counter.dtype == torch.long
    assert (features[..., 3] == 0).all()


def test_a_site_must_have_the_layers_features_on_its_last_axis() -> None:
    stack = trace_anatomy(Model(Narrow, dense=Half), IDS).stack
    with pytest.raises(UnsupportedSite, match=r"last axis is not the layer's 12 features"):
        _ = stack.sites


def test_the_hidden_size_is_that_of_the_vetted_stack() -> None:
    anatomy = trace_anatomy(tiny_model("bart"), tiny_inputs("bart"))
    encoder, decoder = anatomy.stacks
    stacks = (encoder, replace(decoder, hidden_size=8))
    assert Anatomy(stacks=stacks).hidden_size == 8
    assert Anatomy(stacks=stacks, choice="encoder").hidden_size == 16


@pytest.mark.parametrize(
    ("module", "normalises"),
    [
        (nn.LayerNorm(12), True),
        (nn.LayerNorm(12, elementwise_affine=False), True),
        (nn.RMSNorm(12), True),
        (Weird(12), True),
        (LayerNorm(12), False),
        (Constant(12), False),
        (Rescaled(12), False),
        (nn.Sequential(nn.LayerNorm(12)), False),
        (nn.BatchNorm1d(12), False),
        (nn.Dropout(), False),
        (nn.Softmax(-1), False),
        (nn.Tanh(), False),
    ],
)
def test_normalising_is_not_changing_when_the_input_is_scaled(
    module: nn.Module, normalises: bool
) -> None:
    x = torch.randn(3, 12, generator=torch.Generator().manual_seed(0))
    (call, *_) = record(module, {"x" if isinstance(module, WITH_X) else "input": x}).calls
    assert is_normalisation(call) == normalises


def test_a_residual_that_is_normalised_is_no_site() -> None:
    (site, *_) = trace_anatomy(Model(NormedResidual), IDS).stack.sites
    assert (site.module, site.kind) == ("part_2.dense", "writer")


def test_the_site_is_the_innermost_module_with_parameters() -> None:
    (site, *_) = trace_anatomy(Model(PreNorm, dense=Rescaled), IDS).stack.sites
    assert (site.module, site.scale) == ("part_2.dense.inner", "part_2.dense.inner.weight")


def test_batches_flattened_with_time_first_are_told_from_batch_first() -> None:
    (site, *_) = trace_anatomy(Model(TimeMajor), IDS).stack.sites
    assert (site.batch_axis, site.flattened) == (0, "time-major")


def test_of_parallel_branches_the_one_without_attention_is_the_site() -> None:
    (site, *_) = trace_anatomy(Model(Parallel), IDS).stack.sites
    assert site.module == "part_2.dense"


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (TwoBranches, "is 2 branches and not what one module writes"),
        (Gated, "comes from the operation 'mul' and not from a module with parameters"),
    ],
)
def test_what_cannot_be_decided_is_not_guessed(layer: type[Layer], message: str) -> None:
    stack = trace_anatomy(Model(layer), IDS).stack
    with pytest.raises(UnsupportedSite, match=f"'part_2' has no output site .*{message}"):
        _ = stack.sites
    assert stack.n_layers == 3
    assert stack.available() == ("residual",)


@pytest.mark.parametrize("model", [Model(NoResidual), Model(PostNorm, n=1), nn.Embedding(50, 3)])
def test_models_without_repeated_layers_are_refused(model: nn.Module) -> None:
    inputs = {"input": IDS["ids"]} if isinstance(model, nn.Embedding) else IDS
    with pytest.raises(UnsupportedArchitecture, match="No repeated layers were found"):
        trace_anatomy(model, inputs)


def test_a_failing_forward_pass_is_one_sentence() -> None:
    model = tiny_model("bert")
    with pytest.raises(UnsupportedArchitecture, match="BertForMaskedLM on nonsense failed"):
        trace_anatomy(model, {"nonsense": torch.zeros(2, 8)})
    assert not any(module._forward_hooks for module in model.modules())


@pytest.mark.parametrize("architecture", UNSUPPORTED)
def test_mixtures_of_experts_have_no_output_sites_but_residual_ones(architecture: str) -> None:
    stack = trace_anatomy(tiny_model(architecture), tiny_inputs(architecture)).stack
    assert [place.module for place in stack.layers] == [f"model.layers.{n}" for n in range(3)]
    assert stack.available() == ("residual",)
    with pytest.raises(UnsupportedSite) as caught:
        _ = stack.sites
    message = str(caught.value)
    assert "'model.layers." in message
    assert message.endswith(
        "; the site 'output' and the rules for weights need one dense layer or norm for each "
        "layer, which mixtures of experts and models of several residual streams lack, while the "
        "site 'residual' can be ablated in any of them, with dimensions that a rule on activations "
        "finds, such as 'massive'."
    )
    assert message.count(". ") == 0  # one sentence
    # The rules on weights read the norm before the experts instead.
    read: list[str] = []

    def tensor(name: str) -> NDArray[np.float64]:
        read.append(name)
        return np.ones(16)

    site_parameters(stack, tensor)
    assert read == [f"model.layers.{n}.post_attention_layernorm.weight" for n in range(3)]
    assert {site.kind for site in stack.rule_sites} == {"reader"}


def test_features_before_positions_are_refused_not_taken_for_each_other() -> None:
    parts = ("q", "k", "v", "post_attention", "intermediate", "output")
    sizes: dict[str, Any] = {f"{part}_groups": 1 for part in parts}
    sizes |= {"vocab_size": 64, "hidden_size": 16, "embedding_size": 16, "intermediate_size": 24}
    config = transformers.SqueezeBertConfig(num_hidden_layers=2, num_attention_heads=2, **sizes)
    with pytest.raises(UnsupportedArchitecture, match=r"before positions \(2 x 16 x 8\).*give a"):
        trace_anatomy(transformers.SqueezeBertForMaskedLM(config), tiny_inputs("bert"))


def test_layers_of_several_residual_streams_have_the_site_residual_alone() -> None:
    class Streams(Layer):
        """Mixes four streams, (S, B, T, D), and adds to each."""

        def __init__(self, size: int) -> None:
            super().__init__(size)
            self.mixing = nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            mixed: Tensor = self.mixing(x.permute(1, 2, 3, 0)).permute(3, 0, 1, 2)
            y: Tensor = mixed + self.dense(self.a(mixed[0]))
            return y

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Embedding(50, 12)
            self.layers = nn.ModuleList(Streams(12) for _ in range(3))

        def forward(self, ids: Tensor) -> Tensor:
            x = self.table(ids)[None].repeat(4, 1, 1, 1)
            for layer in self.layers:
                x = layer(x)
            y: Tensor = x.sum(0)
            return y

    stack = trace_anatomy(Model(), IDS).stack
    assert [place.module for place in stack.layers] == [f"layers.{n}" for n in range(3)]
    assert [place.batch_axis for place in stack.layers] == [1, 1, 1]
    assert stack.available() == ("residual",)
    with pytest.raises(UnsupportedSite, match="no residual connection leads"):
        _ = stack.rule_sites


def test_stacks_are_told_apart_by_what_reads_what_not_by_their_order() -> None:
    class Reversed(nn.Module):
        """Its second stack is no decoder: it goes on where the first ends."""

        def __init__(self, *, reads: bool) -> None:
            super().__init__()
            self.table = nn.Embedding(50, 12)
            self.first = nn.ModuleList(PostNorm(12) for _ in range(3))
            self.second = nn.ModuleList((Reading if reads else PreNorm)(12) for _ in range(2))
            self.reads = reads

        def forward(self, ids: Tensor) -> Tensor:
            x: Tensor = self.table(ids)
            y = x
            for layer in self.first:
                (x,) = layer(x)
            if not self.reads:
                y = x
            for layer in self.second:
                (y,) = layer(y, x) if self.reads else layer(y)
            return y

    roles = [
        [stack.role for stack in trace_anatomy(Reversed(reads=reads), IDS).stacks]
        for reads in (True, False)
    ]
    assert roles == [["encoder", "decoder"], ["unknown", "unknown"]]
    with pytest.raises(UnsupportedArchitecture, match=r"2 stacks .* of which 0, not one, is its"):
        _ = trace_anatomy(Reversed(reads=False), IDS).stack
