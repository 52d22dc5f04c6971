"""Weights of a checkpoint: missing, renamed, in every precision, too large, or not read at all."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file

from robustness.checkpoint.resolving import resolve
from robustness.errors import CheckpointError
from tests.support.checkpoints import checkpoint_folders
from tests.support.checkpoints.checkpoint_folders import (
    TINY_GPT2,
    change_weights,
    rewrite_weights,
    save_checkpoint,
    tiny_model,
    without,
)

cache = checkpoint_folders.cache
folder = checkpoint_folders.folder


# --- missing weights -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["cls.predictions.transform.dense.weight", "bert.encoder.layer.1.output.dense.bias"]
)
def test_missing_weights_are_refused_and_named(name: str, folder: Path, cache: Path) -> None:
    rewrite_weights(folder, without(name))
    with pytest.raises(CheckpointError, match="random numbers") as caught:
        resolve(str(folder), cache=cache)
    assert name in str(caught.value)


def test_a_missing_untied_head_is_refused(tmp_path: Path, cache: Path) -> None:
    model = tiny_model("LlamaForCausalLM", tie_word_embeddings=False)
    path = save_checkpoint(tmp_path / "model", model)
    rewrite_weights(path, without("lm_head.weight"))
    with pytest.raises(CheckpointError, match=r"lm_head\.weight"):
        resolve(str(path), cache=cache)


def test_weights_lost_after_resolving_are_refused_when_loading(folder: Path, cache: Path) -> None:
    checkpoint = resolve(str(folder), cache=cache)
    name = "cls.predictions.transform.dense.weight"
    rewrite_weights(folder, without(name))
    with pytest.raises(CheckpointError, match=name):
        checkpoint.load_model()


def legacy_names(tensors: dict[str, torch.Tensor]) -> None:
    for name in list(tensors):
        legacy = name.replace("LayerNorm.weight", "LayerNorm.gamma")
        legacy = legacy.replace("LayerNorm.bias", "LayerNorm.beta")
        tensors[legacy] = tensors.pop(name)


def without_prefix(tensors: dict[str, torch.Tensor]) -> None:
    for name in list(tensors):
        tensors[name.removeprefix("bert.")] = tensors.pop(name)


def tied_twice(tensors: dict[str, torch.Tensor]) -> None:
    embedding = tensors["bert.embeddings.word_embeddings.weight"]
    tensors["cls.predictions.decoder.weight"] = embedding.clone()


def tied_under_the_other_name(tensors: dict[str, torch.Tensor]) -> None:
    embedding = tensors.pop("bert.embeddings.word_embeddings.weight")
    tensors["cls.predictions.decoder.weight"] = embedding


@pytest.mark.parametrize(
    "change", [legacy_names, without_prefix, tied_twice, tied_under_the_other_name]
)
def test_names_are_matched_as_transformers_matches_them(
    change: Callable[[dict[str, torch.Tensor]], None], folder: Path, cache: Path
) -> None:
    before = resolve(str(folder), cache=cache).load_model()
    rewrite_weights(folder, change)
    checkpoint = resolve(str(folder), cache=cache)
    model = checkpoint.load_model()
    for name, value in before.named_parameters(remove_duplicate=False):
        assert torch.equal(model.get_parameter(name), value)
        np.testing.assert_array_equal(checkpoint.tensor(name), value.numpy())
    assert "_loaded" not in vars(checkpoint)


def test_parameters_that_are_computed_from_several_tensors_are_read_from_the_loaded_model(
    tmp_path: Path, cache: Path
) -> None:
    sizes = {"intermediate_size": 24, "num_local_experts": 2, "num_key_value_heads": 2}
    model = tiny_model("MixtralForCausalLM", max_position_embeddings=40, **sizes)
    path = save_checkpoint(tmp_path / "model", model)
    stored = load_file(path / "model.safetensors")
    parameters = dict(model.named_parameters())
    assert not parameters.keys() <= stored.keys(), "transformers no longer stacks experts"
    checkpoint = resolve(str(path), cache=cache)
    for name, value in parameters.items():
        np.testing.assert_array_equal(checkpoint.tensor(name), value.detach().numpy())


def test_without_transformers_own_renamings_the_model_is_loaded_instead(
    folder: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("robustness.checkpoint.skeleton._renamed", lambda *_: None)
    said: list[str] = []
    checkpoint = resolve(str(folder), cache=cache, progress=said.append)
    assert any("weights are complete" in line for line in said)
    model = checkpoint.load_model()
    for name, value in model.named_parameters(remove_duplicate=False):
        np.testing.assert_array_equal(checkpoint.tensor(name), value.numpy())
    change_weights(folder)
    rewrite_weights(folder, without("cls.predictions.transform.dense.weight"))
    with pytest.raises(CheckpointError, match="random numbers"):
        resolve(str(folder), cache=cache)


def test_a_parameter_that_does_not_exist_is_named(folder: Path, cache: Path) -> None:
    with pytest.raises(CheckpointError, match=r"no parameter 'bert\.nothing'"):
        resolve(str(folder), cache=cache).tensor("bert.nothing")


# --- precision and memory ------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_every_precision_is_loaded_as_float32(
    dtype: torch.dtype, tmp_path: Path, cache: Path
) -> None:
    model = tiny_model("GPT2LMHeadModel", **TINY_GPT2).to(dtype)
    path = save_checkpoint(tmp_path / "model", model)
    checkpoint = resolve(str(path), cache=cache)
    loaded = checkpoint.load_model()
    for name, value in model.named_parameters(remove_duplicate=False):
        assert loaded.get_parameter(name).dtype == torch.float32
        assert torch.equal(loaded.get_parameter(name), value.to(torch.float32))
        np.testing.assert_array_equal(checkpoint.tensor(name), value.detach().double().numpy())
    assert checkpoint.folder == path
    assert (cache / "float32" / checkpoint.weights_hash[:32]).is_dir()


def test_sharded_checkpoints_are_resolved_and_read(tmp_path: Path, cache: Path) -> None:
    model = tiny_model()
    whole = resolve(str(save_checkpoint(tmp_path / "whole", model)), cache=cache)
    path = save_checkpoint(tmp_path / "shards", model, max_shard_size="10KB")
    assert len(list(path.glob("*-of-*.safetensors"))) > 1
    checkpoint = resolve(str(path), cache=cache)
    loaded = checkpoint.load_model()
    for name, value in whole.load_model().named_parameters():
        assert torch.equal(loaded.get_parameter(name), value)
        np.testing.assert_array_equal(checkpoint.tensor(name), value.numpy())


class ScarceMemory:
    available = 1000


def test_what_exceeds_free_memory_is_refused(
    folder: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("psutil.virtual_memory", ScarceMemory)
    with pytest.raises(CheckpointError, match="of memory in float32"):
        resolve(str(folder), cache=cache)
    checkpoint = resolve(str(folder), cache=cache, check_memory=False)
    assert checkpoint.tensor("bert.embeddings.LayerNorm.weight").shape == (16,)
    with pytest.raises(CheckpointError, match="of memory in float32"):
        checkpoint.load_model()


# --- skeleton ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("class_name", "settings"),
    [
        ("BertForMaskedLM", {}),
        ("GPT2LMHeadModel", TINY_GPT2),
        ("LlamaForCausalLM", {"tie_word_embeddings": True}),
        ("MixtralForCausalLM", {"intermediate_size": 24, "num_key_value_heads": 2}),
    ],
)
def test_a_skeleton_runs_and_keeps_ties_and_buffers(
    class_name: str, settings: dict[str, Any], tmp_path: Path, cache: Path
) -> None:
    path = save_checkpoint(tmp_path / "model", tiny_model(class_name, **settings))
    checkpoint = resolve(str(path), cache=cache)
    skeleton, model = checkpoint.skeleton(), checkpoint.load_model()
    assert not skeleton.training
    assert [n for n, _ in skeleton.named_parameters()] == [n for n, _ in model.named_parameters()]
    for name, buffer in model.named_buffers():
        assert torch.equal(dict(skeleton.named_buffers())[name], buffer)
    logits = skeleton(torch.arange(8)[None]).logits
    assert logits.isfinite().all()
    assert logits.std() > 0
    assert torch.equal(logits, checkpoint.skeleton()(torch.arange(8)[None]).logits)


def test_a_skeleton_of_seven_billion_parameters_takes_megabytes(cache: Path) -> None:
    config = transformers.LlamaConfig(
        hidden_size=4096, intermediate_size=11008, num_hidden_layers=32, num_attention_heads=32
    )
    cls = transformers.LlamaForCausalLM
    from robustness.checkpoint.skeleton import build_skeleton

    skeleton = build_skeleton(cls, config, what="a large model")
    assert sum(p.numel() for p in skeleton.parameters()) > 6e9
    storages = {p.untyped_storage().data_ptr(): p.untyped_storage() for p in skeleton.parameters()}
    assert sum(storage.nbytes() for storage in storages.values()) < 10e6
    assert not cache.exists()
