import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from robustness.ablation import Ablation
from robustness.anatomy import Anatomy, Site, distinct_sites, trace_anatomy
from robustness.detection import few_tokens
from robustness.errors import CheckpointError, UnsupportedArchitecture, UnsupportedSite
from robustness.hooks import ablated
from robustness.parameters import site_parameters
from robustness.probing import is_normalisation
from robustness.tracing import record
from tests.tiny_models import (
    ARCHITECTURES,
    SEQUENCE_TO_SEQUENCE,
    UNSUPPORTED,
    VOCABULARY,
    tiny_inputs,
    tiny_model,
)

LAYERS = 3


class Expected(NamedTuple):
    """What must be found: written down from the models' source code."""

    stack: str
    site: str  # of the last layer
    kind: str = "writer"
    bias: bool = False
    feature_axis: int = 0
    batch_axis: int = 0
    flattened: str | None = None
    layers: int = LAYERS
    execution: int = 0


def norm(stack: str, site: str, **others: Any) -> Expected:
    return Expected(stack, site, kind="norm", bias=True, **others)


EXPECTED: dict[str, list[Expected]] = {
    "albert": [
        norm(
            "albert.encoder",
            "albert.encoder.albert_layer_groups.0.albert_layers.0.full_layer_layer_norm",
            execution=2,
        )
    ],
    "albert-groups": [
        norm(
            "albert.encoder",
            "albert.encoder.albert_layer_groups.0.albert_layers.1.full_layer_layer_norm",
            layers=2 * LAYERS,
            execution=2,
        )
    ],
    "bart": [
        norm("model.encoder", "model.encoder.layers.2.final_layer_norm"),
        norm("model.decoder", "model.decoder.layers.2.final_layer_norm"),
    ],
    "bert": [norm("bert.encoder", "bert.encoder.layer.2.output.LayerNorm")],
    "bert-decoder": [norm("bert.encoder", "bert.encoder.layer.2.output.LayerNorm")],
    "bloom": [Expected("transformer", "transformer.h.2.mlp.dense_4h_to_h", bias=True)],
    "bloom-post-norm-residual": [
        Expected("transformer", "transformer.h.2.mlp.dense_4h_to_h", bias=True)
    ],
    "cohere": [Expected("model", "model.layers.2.mlp.down_proj")],
    "deberta": [norm("deberta.encoder", "deberta.encoder.layer.2.output.LayerNorm")],
    "deberta-v2": [norm("deberta.encoder", "deberta.encoder.layer.2.output.LayerNorm")],
    "distilbert": [
        norm("distilbert.transformer", "distilbert.transformer.layer.2.output_layer_norm")
    ],
    "electra": [norm("electra.encoder", "electra.encoder.layer.2.output.LayerNorm")],
    "electra-discriminator": [norm("electra.encoder", "electra.encoder.layer.2.output.LayerNorm")],
    "ernie": [norm("ernie.encoder", "ernie.encoder.layer.2.output.LayerNorm")],
    "falcon": [Expected("transformer", "transformer.h.2.mlp.dense_4h_to_h")],
    "falcon-alibi": [Expected("transformer", "transformer.h.2.mlp.dense_4h_to_h")],
    "falcon-new": [Expected("transformer", "transformer.h.2.mlp.dense_4h_to_h")],
    "gemma": [Expected("model", "model.layers.2.mlp.down_proj")],
    "gemma2": [Expected("model", "model.layers.2.post_feedforward_layernorm")],
    "gemma3": [Expected("model", "model.layers.2.post_feedforward_layernorm")],
    "glm4": [Expected("model", "model.layers.2.post_mlp_layernorm")],
    "gpt2": [Expected("transformer", "transformer.h.2.mlp.c_proj", bias=True, feature_axis=1)],
    "gpt2-square": [
        Expected("transformer", "transformer.h.2.mlp.c_proj", bias=True, feature_axis=1)
    ],
    "gpt-neo": [Expected("transformer", "transformer.h.2.mlp.c_proj", bias=True)],
    "gpt-neox": [Expected("gpt_neox", "gpt_neox.layers.2.mlp.dense_4h_to_h", bias=True)],
    "gpt-neox-sequential": [Expected("gpt_neox", "gpt_neox.layers.2.mlp.dense_4h_to_h", bias=True)],
    "gptj": [Expected("transformer", "transformer.h.2.mlp.fc_out", bias=True)],
    "granite": [Expected("model", "model.layers.2.mlp.down_proj")],
    "llama": [Expected("model", "model.layers.2.mlp.down_proj")],
    "jamba": [Expected("model", "model.layers.2.feed_forward.down_proj")],
    "mamba": [Expected("backbone", "backbone.layers.2.mixer.out_proj")],
    "marian": [
        norm("model.encoder", "model.encoder.layers.2.final_layer_norm"),
        norm("model.decoder", "model.decoder.layers.2.final_layer_norm"),
    ],
    "mbart": [
        Expected("model.encoder", "model.encoder.layers.2.fc2", bias=True),
        Expected("model.decoder", "model.decoder.layers.2.fc2", bias=True),
    ],
    "megatron-bert": [Expected("bert.encoder", "bert.encoder.layer.2.output.dense", bias=True)],
    "mistral": [Expected("model", "model.layers.2.mlp.down_proj")],
    "modernbert": [Expected("model", "model.layers.2.mlp.Wo")],
    "mpnet": [norm("mpnet.encoder", "mpnet.encoder.layer.2.output.LayerNorm")],
    "nemotron": [Expected("model", "model.layers.2.mlp.down_proj")],
    "olmo": [Expected("model", "model.layers.2.mlp.down_proj")],
    "olmo2": [Expected("model", "model.layers.2.post_feedforward_layernorm")],
    "opt": [
        Expected("model.decoder", "model.decoder.layers.2.fc2", bias=True, flattened="batch-major")
    ],
    "opt-post-norm": [norm("model.decoder", "model.decoder.layers.2.final_layer_norm")],
    "phi": [Expected("model", "model.layers.2.mlp.fc2", bias=True)],
    "phi3": [Expected("model", "model.layers.2.mlp.down_proj")],
    "qwen2": [Expected("model", "model.layers.2.mlp.down_proj")],
    "qwen3": [Expected("model", "model.layers.2.mlp.down_proj")],
    "roberta": [norm("roberta.encoder", "roberta.encoder.layer.2.output.LayerNorm")],
    "roberta-prelayernorm": [
        Expected(
            "roberta_prelayernorm.encoder",
            "roberta_prelayernorm.encoder.layer.2.output.dense",
            bias=True,
        )
    ],
    "roformer": [norm("roformer.encoder", "roformer.encoder.layer.2.output.LayerNorm")],
    "stablelm-parallel": [Expected("model", "model.layers.2.mlp.down_proj")],
    "t5": [
        Expected("encoder", "encoder.block.2.layer.1.DenseReluDense.wo"),
        Expected("decoder", "decoder.block.2.layer.2.DenseReluDense.wo"),
    ],
    "t5-gated": [
        Expected("encoder", "encoder.block.2.layer.1.DenseReluDense.wo"),
        Expected("decoder", "decoder.block.2.layer.2.DenseReluDense.wo"),
    ],
    "xlm-roberta": [norm("roberta.encoder", "roberta.encoder.layer.2.output.LayerNorm")],
    "xlnet": [norm("transformer", "transformer.layer.2.ff.layer_norm", batch_axis=1)],
}


def found(anatomy: Anatomy) -> list[Expected]:
    return [
        Expected(
            stack=stack.name,
            site=site.module,
            kind=site.kind,
            bias=site.bias is not None,
            feature_axis=site.feature_axis,
            batch_axis=-1 if site.batch_axis is None else site.batch_axis,
            flattened=site.flattened,
            layers=stack.n_layers,
            execution=site.execution,
        )
        for stack in anatomy.stacks
        for site in stack.sites[-1:]
    ]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_stacks_and_sites_are_found(architecture: str) -> None:
    model = tiny_model(architecture, n_layers=LAYERS)
    anatomy = trace_anatomy(model, tiny_inputs(architecture))
    assert found(anatomy) == EXPECTED[architecture]
    assert anatomy.hidden_size == 16
    assert all(stack.hidden_size == 16 for stack in anatomy.stacks)
    parameters = dict(model.named_parameters())
    for stack in anatomy.stacks:
        assert [site.layer for site in stack.sites] == list(range(stack.n_layers))
        for site in stack.sites:
            assert parameters[site.scale].shape[site.feature_axis] == 16
            assert site.bias is None or parameters[site.bias].shape == (16,)


@pytest.mark.parametrize("value", [0.0, 1.0, float("nan")])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_parameters_values_do_not_matter(architecture: str, value: float) -> None:
    model = tiny_model(architecture, n_layers=LAYERS)
    for module in model.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                constant = torch.full((), value).expand(parameter.shape)  # takes no memory
                module._parameters[name] = nn.Parameter(constant, requires_grad=False)
    assert found(trace_anatomy(model, tiny_inputs(architecture))) == EXPECTED[architecture]


@pytest.mark.parametrize("architecture", ["albert", "bert", "gemma2", "gpt2", "llama"])
def test_tracing_leaves_the_model_as_it_was(architecture: str) -> None:
    model = tiny_model(architecture)
    model.train()
    next(model.children()).training = False
    before = {name: (id(p), p.clone()) for name, p in model.named_parameters()}
    training = [module.training for module in model.modules()]
    random_state = torch.get_rng_state()
    trace_anatomy(model, tiny_inputs(architecture))
    assert [module.training for module in model.modules()] == training
    assert torch.equal(torch.get_rng_state(), random_state)
    assert list(before) == [name for name, _ in model.named_parameters()]
    for name, parameter in model.named_parameters():
        assert id(parameter) == before[name][0]
        assert torch.equal(parameter, before[name][1])
        assert parameter.requires_grad
    for module in model.modules():
        assert not module._forward_hooks
        assert not module._forward_pre_hooks
        assert not module._forward_hooks_with_kwargs
        assert not module._forward_pre_hooks_with_kwargs


def test_tracing_works_under_inference_mode() -> None:
    with torch.inference_mode():
        anatomy = trace_anatomy(tiny_model("bert"), tiny_inputs("bert"))
    assert found(anatomy) == EXPECTED["bert"]


def test_bfloat16_models_are_traced() -> None:
    model = tiny_model("llama").to(torch.bfloat16)
    assert found(trace_anatomy(model, tiny_inputs("llama"))) == EXPECTED["llama"]


def test_layers_that_share_a_module_are_told_apart_by_their_execution() -> None:
    stack = trace_anatomy(tiny_model("albert", n_layers=4), tiny_inputs("albert")).stack
    assert [site.execution for site in stack.sites] == [0, 1, 2, 3]
    assert distinct_sites(stack) == 1


def test_an_unshared_stack_has_as_many_distinct_sites_as_layers() -> None:
    stack = trace_anatomy(tiny_model("bert", n_layers=4), tiny_inputs("bert")).stack
    assert distinct_sites(stack) == 4


def test_the_query_stream_of_a_permutation_language_model_does_not_confuse() -> None:
    inputs = tiny_inputs("xlnet")
    permutation = torch.zeros(2, 8, 8)
    permutation[:, :, 3] = 1
    target = torch.zeros(2, 1, 8)
    target[:, :, 3] = 1
    inputs |= {"perm_mask": permutation, "target_mapping": target}
    assert found(trace_anatomy(tiny_model("xlnet"), inputs)) == EXPECTED["xlnet"]


def test_one_row_is_enough_to_find_sites_but_not_their_batch_axis() -> None:
    inputs = tiny_inputs("bert", rows=1)
    (site, *_) = trace_anatomy(tiny_model("bert"), inputs).stack.sites
    assert site.kind == "norm"
    assert site.batch_axis is None


def test_rows_that_do_not_differ_tell_nothing_of_the_batch_axis() -> None:
    inputs = {name: tensor[:1].expand(2, -1) for name, tensor in tiny_inputs("bert").items()}
    (site, *_) = trace_anatomy(tiny_model("bert"), inputs).stack.sites
    assert site.batch_axis is None


def test_anatomies_survive_json() -> None:
    anatomy = trace_anatomy(tiny_model("opt"), tiny_inputs("opt"))
    assert Anatomy.from_dict(json.loads(json.dumps(anatomy.to_dict()))) == anatomy


def test_anatomies_of_another_schema_are_refused() -> None:
    data = trace_anatomy(tiny_model("bert"), tiny_inputs("bert")).to_dict()
    with pytest.raises(ValueError, match="schema 99"):
        Anatomy.from_dict({**data, "schema": 99})


@pytest.mark.parametrize("architecture", sorted(SEQUENCE_TO_SEQUENCE))
def test_encoder_and_decoder_are_told_apart(architecture: str) -> None:
    model, inputs = tiny_model(architecture), tiny_inputs(architecture)
    anatomy = trace_anatomy(model, inputs)
    assert [stack.role for stack in anatomy.stacks] == ["encoder", "decoder"]
    assert ["encoder" in stack.name for stack in anatomy.stacks] == [True, False]
    assert anatomy.stack is anatomy.stacks[1]  # its output leads to the head
    encoder, decoder = (
        trace_anatomy(model, inputs, stack=choice) for choice in ("encoder", "decoder")
    )
    assert encoder.stack == anatomy.stacks[0]
    assert decoder.stack == anatomy.stacks[1]
    assert Anatomy.from_dict(json.loads(json.dumps(encoder.to_dict()))) == encoder


@pytest.mark.parametrize("architecture", ["bart", "bert", "t5"])
def test_a_checkpoint_is_examined_with_inputs_for_every_stack(architecture: str) -> None:
    model = tiny_model(architecture)
    anatomy = trace_anatomy(model, few_tokens(model, VOCABULARY))
    assert found(anatomy) == EXPECTED[architecture]


# Behind the attention and at the embedding, of the last layer: written down from the source code.
NORMS: dict[str, tuple[str | None, str | None]] = {
    "albert": (
        "albert.encoder.albert_layer_groups.0.albert_layers.0.attention.LayerNorm",
        None,  # the embedding's norm has other features: it is projected to the layers' width
    ),
    "bart": ("model.decoder.layers.2.self_attn_layer_norm", "model.decoder.layernorm_embedding"),
    "bert": ("bert.encoder.layer.2.attention.output.LayerNorm", "bert.embeddings.LayerNorm"),
    "bloom": (None, "transformer.word_embeddings_layernorm"),
    "deberta-v2": (
        "deberta.encoder.layer.2.attention.output.LayerNorm",
        "deberta.embeddings.LayerNorm",
    ),
    "electra": ("electra.encoder.layer.2.attention.output.LayerNorm", None),
    "gemma2": ("model.layers.2.post_attention_layernorm", None),
    "glm4": ("model.layers.2.post_self_attn_layernorm", None),
    "gpt2": (None, None),
    "gpt-neox": (None, None),
    "llama": (None, None),
    "mbart": (None, "model.decoder.layernorm_embedding"),
    "modernbert": (None, "model.embeddings.norm"),
    "olmo2": ("model.layers.2.post_attention_layernorm", None),
    "opt": (None, None),
    "opt-post-norm": ("model.decoder.layers.2.self_attn_layer_norm", None),
    "qwen3": (None, None),  # its norms of queries and keys are not on the residual path
    "roberta-prelayernorm": (None, "roberta_prelayernorm.embeddings.LayerNorm"),
    "t5": (None, None),
    "xlnet": ("transformer.layer.2.rel_attn.layer_norm", None),
}


@pytest.mark.parametrize("architecture", NORMS)
def test_norms_behind_attention_and_embedding_are_found(architecture: str) -> None:
    stack = trace_anatomy(tiny_model(architecture), tiny_inputs(architecture)).stack
    attention, embedding = NORMS[architecture]
    assert stack.embedding_norm is None or stack.embedding_norm.module == embedding
    assert (stack.embedding_norm is None) == (embedding is None)
    assert len(stack.attention_norms) == (0 if attention is None else LAYERS)
    assert all(place.module == attention for place in stack.attention_norms[-1:])
    for site, name in (("attention-norm", attention), ("embedding-norm", embedding)):
        if name is None:
            with pytest.raises(UnsupportedSite, match=f"no site '{site}'; it has 'output'"):
                stack.at(site)


def test_layers_of_several_classes_in_one_list_are_one_stack() -> None:
    stack = trace_anatomy(tiny_model("jamba", n_layers=4), tiny_inputs("jamba")).stack
    assert [place.module for place in stack.layers] == [f"model.layers.{n}" for n in range(4)]


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


def test_an_only_stack_is_neither_encoder_nor_decoder() -> None:
    anatomy = trace_anatomy(tiny_model("bert"), tiny_inputs("bert"), stack="encoder")
    with pytest.raises(UnsupportedArchitecture, match=r"one stack of layers, 'bert.encoder'"):
        _ = anatomy.stack


# Models written for the traps: none of them resembles a known one in its names.


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
        (TwoBranches, "a sum of branches of which 2, not one, end without attention"),
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
    with pytest.raises(UnsupportedArchitecture, match="has no repeated layers"):
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
        site_parameters(stack, lambda name: pytest.fail(f"{name} was read"))
    message = str(caught.value)
    assert "layers.0" in message
    assert message.endswith(
        "; the rules for weights and the site 'output' need layers whose output one dense layer or "
        "norm writes, which those of a mixture of experts have not, while the site 'residual' can "
        "be ablated in any of them."
    )
    assert message.count(". ") == 0  # one sentence


# The parameters at the sites.


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
