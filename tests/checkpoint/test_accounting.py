"""Tensors of the files that are no parameter of the model as they stand: none goes unsaid."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import transformers

from robustness.checkpoint.accounting import account
from robustness.checkpoint.config import load_config
from robustness.checkpoint.resolving import resolve
from robustness.checkpoint.skeleton import build_skeleton, map_names
from robustness.checkpoint.weights import TensorInfo, read_tensors
from robustness.errors import CheckpointError, NoLanguageModel
from tests.support.checkpoints import checkpoint_folders
from tests.support.checkpoints.checkpoint_folders import (
    rewrite_weights,
    tiny_model,
    without,
)

cache = checkpoint_folders.cache
folder = checkpoint_folders.folder
Tensors = dict[str, torch.Tensor]
Infos = dict[str, tuple[str, tuple[int, ...]]]
LAYER = "model.layers.1"
PROJECTION = f"{LAYER}.self_attn.q_proj"


@pytest.fixture(scope="module")
def with_tensors(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Infos], list[str]]:
    """Says what comes of tensors, known by dtype and shape, beside those of a Llama."""
    folder = tmp_path_factory.mktemp("accounting")
    tiny_model("LlamaForCausalLM", num_key_value_heads=1).save_pretrained(folder)
    tensors = read_tensors(folder)
    config = load_config(folder, what="it")
    skeleton = build_skeleton(transformers.LlamaForCausalLM, config, what="it")

    def said(added: Infos) -> list[str]:
        infos = {
            name: TensorInfo(name=name, file=folder, dtype=dtype, shape=shape, offset=0)
            for name, (dtype, shape) in added.items()
        }
        every = {**tensors, **infos}
        names = map_names(skeleton, every)
        assert names is not None
        return account(skeleton, names, every, what="it")

    return said


PARTS = {
    f"{PROJECTION}.bias": "restore the config",
    "model.norm.bias": "restore the config",
    f"{LAYER}.self_attn.q_norm.weight": "restore the config",
    f"{LAYER}.self_attn.sinks": "restore the config",
    "layers.1.self_attn.q_proj.bias": "restore the config",
    "lm_head.bias": "restore the config",
    f"{PROJECTION}.weight_scale": "floating point",
    f"{PROJECTION}.weight_scale_inv": "floating point",
    f"{PROJECTION}.weight_zero_point": "floating point",
    f"{PROJECTION}.input_scale": "floating point",
    f"{PROJECTION}.qweight": "floating point",
    f"{PROJECTION}.g_idx": "floating point",
    f"{PROJECTION}.biases": "floating point",
    f"{PROJECTION}.weight.absmax": "floating point",
    f"{PROJECTION}.weight.quant_state.bitsandbytes__nf4": "floating point",
    f"{PROJECTION}.SCB": "floating point",
    f"{PROJECTION}.lora_A.default.weight": "merge_and_unload",
    f"{PROJECTION}.lora_B.weight": "merge_and_unload",
    f"{PROJECTION}.base_layer.weight": "merge_and_unload",
    f"{PROJECTION}.weight_g": "parametrisation",
    f"{PROJECTION}.weight_orig": "parametrisation",
    f"{PROJECTION}.weight_mask": "parametrisation",
    f"{PROJECTION}.parametrizations.weight.original0": "parametrisation",
}


@pytest.mark.parametrize(("name", "advice"), PARTS.items(), ids=PARTS.keys())
def test_what_belongs_to_weights_of_the_model_is_refused(
    name: str, advice: str, with_tensors: Callable[[Infos], list[str]]
) -> None:
    with pytest.raises(CheckpointError, match="another model's") as caught:
        with_tensors({name: ("F32", (16,))})
    assert name in str(caught.value)
    assert advice in str(caught.value)


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        (f"{LAYER}.self_attn.rotary_emb.inv_freq", (4,)),
        (f"{LAYER}.self_attn.rotary_emb.cos_cached", (1, 1, 9, 8)),
        ("model.embeddings.position_ids", (1, 40)),
        (f"{LAYER}.attn.masked_bias", ()),
        (f"{LAYER}.attn.bias", (1, 1, 40, 40)),
    ],
)
def test_caches_and_masks_are_ignored(
    name: str, shape: tuple[int, ...], with_tensors: Callable[[Infos], list[str]]
) -> None:
    assert with_tensors({name: ("F32", shape)}) == []


@pytest.mark.parametrize(
    "name",
    ["classifier.weight", "model.pooler.dense.bias", "mtp.layers.0.norm.weight", "vision.a.weight"],
)
def test_other_heads_and_towers_are_a_note(
    name: str, with_tensors: Callable[[Infos], list[str]]
) -> None:
    assert with_tensors({name: ("F32", (1,))}) == [f"1 tensor of the files is not used ({name})"]


def test_a_note_counts_and_gives_examples_that_differ(
    with_tensors: Callable[[Infos], list[str]],
) -> None:
    names = [f"model.layers.{n}.{leaf}.weight" for n in (2, 3) for leaf in "abcd"]
    names.append("model.layers.2.input_layernorm.weight")
    (note,) = with_tensors(dict.fromkeys(names, ("F32", (1,))))
    assert note == (
        "9 tensors of the files are not used (such as model.layers.2.a.weight, "
        "model.layers.2.b.weight, model.layers.2.c.weight), some of them of layers beyond those in "
        "config.json"
    )


def test_codes_without_a_quantizer_are_refused(
    with_tensors: Callable[[Infos], list[str]],
) -> None:
    with pytest.raises(CheckpointError, match=r"q_proj\.weight as I8.*quantization_config"):
        with_tensors({f"{PROJECTION}.weight": ("I8", (16, 16))})


# --- wrapped names -------------------------------------------------------------------------------


def within(start: str) -> Callable[[Tensors], None]:
    def change(tensors: Tensors) -> None:
        for name in list(tensors):
            tensors[start + name] = tensors.pop(name)

    return change


def checkpointed(tensors: Tensors) -> None:
    for name in [name for name in tensors if ".layer." in name]:
        tensors[name.replace("layer.0.", "layer.0._orig_mod.")] = tensors.pop(name)


@pytest.mark.parametrize(
    ("change", "start", "who"),
    [
        (within("_orig_mod."), "_orig_mod.", "torch.compile"),
        (within("module."), "module.", "DDP"),
        (within("base_model.model."), "base_model.model.", "PEFT"),
        (within("model."), "model.", "Lightning"),
        (within("a.b."), "a.b.", "what wrapped the model"),
        (checkpointed, "_orig_mod.", "torch.compile"),
    ],
)
def test_wrapped_names_are_refused_with_who_left_them(
    change: Callable[[Tensors], None], start: str, who: str, folder: Path, cache: Path
) -> None:
    rewrite_weights(folder, change)
    with pytest.raises(CheckpointError, match="was saved wrapped") as caught:
        resolve(str(folder), cache=cache)
    assert f"{start!r}, which" in str(caught.value)
    assert who in str(caught.value)


# --- two tensors for one weight ------------------------------------------------------------------


def test_a_head_that_differs_from_what_it_is_tied_to_is_measured_as_stored_and_counted(
    folder: Path, cache: Path
) -> None:
    head = "cls.predictions.decoder.weight"
    tied = resolve(str(folder), cache=cache)
    rewrite_weights(folder, lambda tensors: tensors.update({head: torch.ones(32, 16)}))
    checkpoint = resolve(str(folder), cache=cache)
    assert f"config.json ties {head} to bert.embeddings" in str(checkpoint.note)
    assert checkpoint.n_parameters == tied.n_parameters + 32 * 16
    assert bool((checkpoint.load_model().get_parameter(head) == 1).all())
    assert bool((checkpoint.tensor(head) == 1).all())


def test_two_names_of_one_weight_are_refused_only_if_they_differ(folder: Path, cache: Path) -> None:
    name = "bert.embeddings.LayerNorm."

    def again(tensors: Tensors) -> None:
        tensors[f"{name}gamma"] = tensors[f"{name}weight"].clone()

    rewrite_weights(folder, again)
    assert resolve(str(folder), cache=cache).note is None
    rewrite_weights(folder, lambda tensors: tensors.update({f"{name}gamma": torch.ones(16) * 2}))
    with pytest.raises(CheckpointError, match=r"two different tensors .*LayerNorm\.weight"):
        resolve(str(folder), cache=cache)


# --- a head that is not there --------------------------------------------------------------------


def test_an_encoder_that_is_called_a_language_model_is_vetted_through_a_task(
    folder: Path, cache: Path
) -> None:
    def headless(tensors: Tensors) -> None:
        for name in [name for name in tensors if name.startswith("cls.")]:
            del tensors[name]

    rewrite_weights(folder, headless)
    with pytest.raises(NoLanguageModel, match="--robustness-task"):
        resolve(str(folder), cache=cache)
    assert resolve(str(folder), cache=cache, task="auto").architecture == "BertModel"
    rewrite_weights(folder, without("bert.encoder.layer.1.output.dense.bias"))
    with pytest.raises(CheckpointError, match="random numbers") as caught:
        resolve(str(folder), cache=cache)
    assert not isinstance(caught.value, NoLanguageModel)
