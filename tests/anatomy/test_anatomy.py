import json
from typing import Any, NamedTuple

import pytest
import torch
from torch import nn

from robustness.anatomy.anatomy import few_tokens, trace_anatomy
from robustness.anatomy.stacks import Anatomy, distinct_sites
from robustness.errors import UnsupportedArchitecture, UnsupportedSite
from tests.support.checkpoints.tiny_models import (
    ARCHITECTURES,
    SEQUENCE_TO_SEQUENCE,
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
    "doge": [Expected("model", "model.layers.2.mlp.down_proj")],
    "electra": [norm("electra.encoder", "electra.encoder.layer.2.output.LayerNorm")],
    "electra-discriminator": [norm("electra.encoder", "electra.encoder.layer.2.output.LayerNorm")],
    "ernie": [norm("ernie.encoder", "ernie.encoder.layer.2.output.LayerNorm")],
    "falcon": [Expected("transformer", "transformer.h.2.mlp.dense_4h_to_h")],
    "falcon-alibi": [Expected("transformer", "transformer.h.2.mlp.dense_4h_to_h")],
    "falcon-new": [Expected("transformer", "transformer.h.2.mlp.dense_4h_to_h")],
    # Its layers are no modules: the norms that end them are in one list, the others in another.
    "flaubert": [norm("transformer", "transformer.layer_norm2.2")],
    # Three layers read pooled positions, and one reads all of them again.
    "funnel": [norm("funnel", "funnel.decoder.layers.0.ffn.layer_norm", layers=4)],
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
    "luke": [norm("luke.encoder", "luke.encoder.layer.2.output.LayerNorm")],
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
    # What it calls a norm scales and shifts.
    "mobilebert": [
        norm("mobilebert.encoder", "mobilebert.encoder.layer.2.output.bottleneck.LayerNorm")
    ],
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
    "prophetnet": [
        norm("prophetnet.encoder", "prophetnet.encoder.layers.2.feed_forward_layer_norm"),
        norm("prophetnet.decoder", "prophetnet.decoder.layers.2.feed_forward_layer_norm"),
    ],
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
    "xlm": [norm("transformer", "transformer.layer_norm2.2")],
    "xlm-roberta": [norm("roberta.encoder", "roberta.encoder.layer.2.output.LayerNorm")],
    "xlnet": [norm("transformer", "transformer.layer.2.ff.layer_norm", batch_axis=1)],
    "zamba2": [Expected("model", "model.layers.2.mamba_decoder.mamba.out_proj")],
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


def test_an_only_stack_is_neither_encoder_nor_decoder() -> None:
    anatomy = trace_anatomy(tiny_model("bert"), tiny_inputs("bert"), stack="encoder")
    with pytest.raises(UnsupportedArchitecture, match=r"one stack of layers, 'bert.encoder'"):
        _ = anatomy.stack
