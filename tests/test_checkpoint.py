import dataclasses
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from robustness.architecture import candidates
from robustness.checkpoint import Checkpoint, resolve
from robustness.errors import CheckpointError
from tests.checkpoint_folders import (
    VOCABULARY,
    edit_config,
    save_checkpoint,
    tiny_model,
    tiny_tokenizer,
)
from tests.shared import shared_model

TINY_GPT2 = {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 40}
TINY_T5 = {
    "d_model": 16, "d_kv": 8, "d_ff": 24, "num_layers": 1, "num_heads": 2,
    "decoder_start_token_id": 0,
}  # fmt: skip
TINY_BART = {
    "d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "encoder_ffn_dim": 24,
    "decoder_ffn_dim": 24, "encoder_attention_heads": 2, "decoder_attention_heads": 2,
}  # fmt: skip
TINY_WAV2VEC2 = {
    "intermediate_size": 24, "conv_dim": [8], "conv_stride": [5], "conv_kernel": [10],
    "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 2, "num_feat_extract_layers": 1,
}  # fmt: skip
TINY_WHISPER = {**TINY_BART, "decoder_start_token_id": 0, "bos_token_id": 0, "eos_token_id": 1}


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A random BERT with its tokenizer."""
    return save_checkpoint(tmp_path / "tiny")


def rewrite_weights(folder: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> None:
    tensors = load_file(folder / "model.safetensors")
    # The file is memory-mapped, so it must be replaced, not overwritten.
    tensors = {name: value.clone() for name, value in tensors.items()}
    change(tensors)
    (folder / "model.safetensors").unlink()
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def without(name: str) -> Callable[[dict[str, torch.Tensor]], None]:
    """A change of weights that leaves one out."""

    def change(tensors: dict[str, torch.Tensor]) -> None:
        del tensors[name]

    return change


# --- real checkpoints ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "architecture", "vocab_size", "max_positions"),
    [
        ("rxnfp-bert-mlm", "BertForMaskedLM", 591, 512),
        ("rxnmapper-albert-mlm", "AlbertForMaskedLM", 591, 512),
        # RoBERTa's table of 130 positions starts behind its padding index.
        ("sapiens-roberta-vl", "RobertaForMaskedLM", 25, 128),
    ],
)
def test_real_checkpoints_are_resolved_and_loaded(
    name: str, architecture: str, vocab_size: int, max_positions: int, cache: Path
) -> None:
    path = shared_model(name)
    checkpoint = resolve(str(path), cache=cache)
    assert (checkpoint.label, checkpoint.source, checkpoint.folder) == (name, "folder", path)
    assert (checkpoint.architecture, checkpoint.scoring) == (architecture, "masked")
    assert (checkpoint.vocab_size, checkpoint.max_positions) == (vocab_size, max_positions)
    assert checkpoint.note is None

    model = checkpoint.load_model()
    assert checkpoint.n_parameters == sum(p.numel() for p in model.parameters())
    assert not model.training
    assert all(p.dtype == torch.float32 and not p.requires_grad for p in model.parameters())
    skeleton = checkpoint.skeleton()
    assert {n: p.shape for n, p in skeleton.named_parameters()} == {
        n: p.shape for n, p in model.named_parameters()
    }
    for parameter, value in model.named_parameters(remove_duplicate=False):
        np.testing.assert_array_equal(checkpoint.tensor(parameter), value.numpy())


def test_the_longest_input_is_really_the_longest(cache: Path) -> None:
    checkpoint = resolve(str(shared_model("sapiens-roberta-vl")), cache=cache)
    model = checkpoint.load_model()
    assert checkpoint.max_positions is not None
    ids = torch.full((1, checkpoint.max_positions), 5)
    assert model(ids).logits.isfinite().all()
    with pytest.raises((IndexError, RuntimeError)):
        model(torch.full((1, checkpoint.max_positions + 1), 5))


# --- identity ------------------------------------------------------------------------------------


def test_a_checkpoint_travels_as_json_and_loads_in_another_process(
    folder: Path, cache: Path
) -> None:
    checkpoint = resolve(str(folder), cache=cache)
    text = json.dumps(checkpoint.to_dict())
    assert Checkpoint.from_dict(json.loads(text)) == checkpoint
    code = (
        "import json, sys; from robustness.checkpoint import Checkpoint\n"
        "checkpoint = Checkpoint.from_dict(json.loads(sys.argv[1]))\n"
        "print(sum(p.double().sum().item() for p in checkpoint.load_model().parameters()))"
    )
    out = subprocess.run(
        [sys.executable, "-W", "error", "-c", code, text],
        capture_output=True,
        text=True,
        check=True,
    )
    assert float(out.stdout) == sum(
        p.double().sum().item() for p in checkpoint.load_model().parameters()
    )
    assert out.stderr == ""


def test_a_description_of_another_schema_is_refused(folder: Path, cache: Path) -> None:
    data = resolve(str(folder), cache=cache).to_dict()
    with pytest.raises(CheckpointError, match="another version"):
        Checkpoint.from_dict({**data, "schema": 0})


def test_the_same_content_elsewhere_is_the_same_revision(
    folder: Path, tmp_path: Path, cache: Path
) -> None:
    first = resolve(str(folder), cache=cache)
    copy = shutil.copytree(folder, tmp_path / "copy")
    second = resolve(str(copy), cache=cache)
    assert first.revision == second.revision
    assert first.revision.startswith("sha256:")
    assert len(first.revision) == len("sha256:") + 12


def change_weights(folder: Path) -> None:
    def add(tensors: dict[str, torch.Tensor]) -> None:
        tensors["bert.embeddings.LayerNorm.bias"] += 1

    rewrite_weights(folder, add)


def change_config(folder: Path) -> None:
    edit_config(folder, layer_norm_eps=1e-3)


def change_tokenizer(folder: Path) -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.model_max_length = 12
    tokenizer.save_pretrained(folder)


@pytest.mark.parametrize(
    ("change", "changed"),
    [
        (change_weights, "weights_hash"),
        (change_config, "config_hash"),
        (change_tokenizer, "tokenizer_hash"),
    ],
)
def test_every_part_belongs_to_the_revision(
    change: Callable[[Path], None], changed: str, folder: Path, cache: Path
) -> None:
    before = resolve(str(folder), cache=cache)
    change(folder)
    after = resolve(str(folder), cache=cache)
    assert before.revision != after.revision
    for part in ("weights_hash", "tokenizer_hash", "config_hash"):
        assert (getattr(before, part) != getattr(after, part)) == (part == changed)


def test_resolving_again_imports_no_torch(folder: Path, cache: Path) -> None:
    first = resolve(str(folder), cache=cache)
    code = (
        "import json, pathlib, sys; from robustness.checkpoint import resolve\n"
        "checkpoint = resolve(sys.argv[1], cache=pathlib.Path(sys.argv[2]))\n"
        "assert not {'torch', 'transformers', 'huggingface_hub'} & set(sys.modules)\n"
        "print(json.dumps(checkpoint.to_dict()))"
    )
    out = subprocess.run(
        [sys.executable, "-c", code, str(folder), str(cache)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert Checkpoint.from_dict(json.loads(out.stdout)) == first


def test_a_damaged_memory_of_a_checkpoint_is_ignored(folder: Path, cache: Path) -> None:
    first = resolve(str(folder), cache=cache)
    (record,) = (cache / "checkpoints").iterdir()
    for text in ("{", "[]", '{"architecture": "X"}'):
        record.write_text(text)
        assert resolve(str(folder), cache=cache) == first


def test_a_folder_that_could_be_a_hub_id_is_noted(
    folder: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder.parent)
    checkpoint = resolve("tiny", cache=cache)
    assert "not a Hub model of the same name" in str(checkpoint.note)


# --- architectures -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("class_name", "settings", "scoring"),
    [
        ("BertForMaskedLM", {}, "masked"),
        ("RobertaForMaskedLM", {}, "masked"),
        ("ElectraForMaskedLM", {"embedding_size": 12}, "masked"),
        ("DistilBertForMaskedLM", {"dim": 16, "n_heads": 2, "hidden_dim": 24}, "masked"),
        ("GPT2LMHeadModel", TINY_GPT2, "causal"),
        ("OPTForCausalLM", {"ffn_dim": 24, "word_embed_proj_dim": 16}, "causal"),
        ("GPTNeoXForCausalLM", {"intermediate_size": 24}, "causal"),
        ("LlamaForCausalLM", {"tie_word_embeddings": True}, "causal"),
        ("LlamaForCausalLM", {"tie_word_embeddings": False}, "causal"),
        ("BertLMHeadModel", {"is_decoder": True}, "causal"),
        ("BartForCausalLM", {"d_model": 16, "decoder_attention_heads": 2}, "causal"),
        ("XLNetLMHeadModel", {"d_model": 16, "n_layer": 1, "n_head": 2}, "permutation"),
        ("T5ForConditionalGeneration", TINY_T5, "seq2seq"),
        ("BartForConditionalGeneration", TINY_BART, "seq2seq"),
        ("ElectraForPreTraining", {"embedding_size": 12}, "replaced-token"),
    ],
)
def test_language_models_are_recognised_and_read_without_loading(
    class_name: str, settings: dict[str, Any], scoring: str, tmp_path: Path, cache: Path
) -> None:
    model = tiny_model(class_name, **settings)
    # Norms start as ones and biases as zeros: make every value tell where it was read.
    for parameter in model.parameters():
        parameter.data.uniform_(-1, 1)
    path = save_checkpoint(tmp_path / "model", model)
    checkpoint = resolve(str(path), cache=cache)
    assert (checkpoint.architecture, checkpoint.scoring) == (class_name, scoring)
    assert checkpoint.vocab_size == VOCABULARY
    loaded = checkpoint.load_model()
    for name, value in model.named_parameters(remove_duplicate=False):
        assert torch.equal(loaded.get_parameter(name), value)
        np.testing.assert_array_equal(checkpoint.tensor(name), value.detach().numpy())
    assert "_loaded" not in vars(checkpoint), "names alone must have been enough"


@pytest.mark.parametrize(
    ("class_name", "settings", "message"),
    [
        ("BertModel", {}, "is a BertModel: it has no language-model head, so it has no perplexity"),
        ("BertForSequenceClassification", {}, "it has no language-model head"),
        ("GPT2ForSequenceClassification", TINY_GPT2, "it has no language-model head"),
        ("BertLMHeadModel", {}, "does not set is_decoder"),
        ("T5EncoderModel", TINY_T5, "it has no language-model head"),
        ("BartForSequenceClassification", TINY_BART, "it has no language-model head"),
        ("BertForTokenClassification", {}, "give the masked, causal or sequence-to-sequence"),
        ("ViTForImageClassification", {"intermediate_size": 24}, "reads image and no text"),
        ("Wav2Vec2ForCTC", TINY_WAV2VEC2, "reads audio and no text"),
        ("WhisperForConditionalGeneration", TINY_WHISPER, "reads text and audio: multimodal"),
    ],
)
def test_what_is_no_language_model_is_refused(
    class_name: str, settings: dict[str, Any], message: str, tmp_path: Path, cache: Path
) -> None:
    path = save_checkpoint(tmp_path / "model", tiny_model(class_name, **settings))
    with pytest.raises(CheckpointError, match=message) as caught:
        resolve(str(path), cache=cache)
    assert str(path) in str(caught.value)


def test_pretraining_checkpoints_are_read_as_masked_language_models(
    tmp_path: Path, cache: Path
) -> None:
    path = save_checkpoint(tmp_path / "model", tiny_model("BertForPreTraining"))
    checkpoint = resolve(str(path), cache=cache)
    assert (checkpoint.architecture, checkpoint.scoring) == ("BertForMaskedLM", "masked")


@pytest.mark.parametrize(
    ("class_name", "settings", "expected"),
    [
        ("BertForMaskedLM", {}, "BertForMaskedLM"),
        ("GPT2LMHeadModel", TINY_GPT2, "GPT2LMHeadModel"),
        ("RobertaForCausalLM", {"is_decoder": True}, "RobertaForMaskedLM"),
    ],
)
def test_without_a_declared_class_the_head_decides(
    class_name: str, settings: dict[str, Any], expected: str, tmp_path: Path, cache: Path
) -> None:
    path = save_checkpoint(tmp_path / "model", tiny_model(class_name, **settings))
    edit_config(path, architectures=None)
    assert resolve(str(path), cache=cache).architecture == expected


def test_without_a_declared_class_what_reads_no_text_is_refused(
    tmp_path: Path, cache: Path
) -> None:
    path = save_checkpoint(tmp_path / "m", tiny_model("Wav2Vec2ForCTC", **TINY_WAV2VEC2))
    with pytest.raises(CheckpointError, match="is a Wav2Vec2ForPreTraining, which reads audio"):
        resolve(str(edit_config(path, architectures=None)), cache=cache)


def test_a_causal_model_that_could_also_read_images_is_vetted_on_text() -> None:
    from transformers import Gemma3Config

    config = Gemma3Config(architectures=["Gemma3ForConditionalGeneration"])
    (found,) = candidates(config, what="gemma")
    assert (found.name, found.scoring) == ("Gemma3ForConditionalGeneration", "causal")


def test_without_a_declared_class_and_without_a_head_it_is_refused(
    tmp_path: Path, cache: Path
) -> None:
    path = edit_config(save_checkpoint(tmp_path / "m", tiny_model("BertModel")), architectures=None)
    with pytest.raises(CheckpointError, match=r"lacks weights .*cls\.predictions"):
        resolve(str(path), cache=cache)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"architectures": ["NobodysForCausalLM"]}, "does not contain"),
        ({"architectures": ["LlavaForConditionalGeneration"]}, "multimodal"),
        ({"model_type": "nobodys"}, "is of type 'nobodys', which transformers"),
        ({"model_type": ["x"]}, "is of type"),
        ({"architectures": ["a b\x1b"]}, "impossible class"),
        ({"vocab_size": 10**9}, "asks for"),
        ({"num_hidden_layers": 10**9}, "num_hidden_layers to 1000000000"),
        ({"num_hidden_layers": 3}, r"lacks weights .*bert\.encoder\.layer\.2"),
        ({"vocab_size": 99}, "is 32 x 16 in the files, BertForMaskedLM needs 99 x 16"),
        ({"hidden_size": 10**13}, "config.json"),
        ({"hidden_size": "large"}, "config.json"),
        ({"num_attention_heads": 0}, "config.json"),
    ],
)
def test_a_config_that_does_not_fit_the_weights_is_refused(
    settings: dict[str, Any], message: str, folder: Path, cache: Path
) -> None:
    edit_config(folder, **settings)
    with pytest.raises(CheckpointError, match=message) as caught:
        resolve(str(folder), cache=cache)
    assert "\n" not in str(caught.value)


def test_layers_that_the_config_leaves_out_are_noted(folder: Path, cache: Path) -> None:
    edit_config(folder, num_hidden_layers=1)
    note = str(resolve(str(folder), cache=cache).note)
    assert "layers beyond those in config.json" in note
    assert "bert.encoder.layer.1." in note


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
    monkeypatch.setattr("robustness.skeleton._renamed", lambda *_: None)
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
    from robustness.skeleton import build_skeleton

    skeleton = build_skeleton(cls, config, what="a large model")
    assert sum(p.numel() for p in skeleton.parameters()) > 6e9
    storages = {p.untyped_storage().data_ptr(): p.untyped_storage() for p in skeleton.parameters()}
    assert sum(storage.nbytes() for storage in storages.values()) < 10e6
    assert not cache.exists()


# --- tokenizer -----------------------------------------------------------------------------------


def test_a_tokenizer_that_knows_too_many_ids_is_refused(tmp_path: Path, cache: Path) -> None:
    path = save_checkpoint(tmp_path / "model", tokenizer=tiny_tokenizer(VOCABULARY + 1))
    with pytest.raises(CheckpointError, match="ids up to 32, the embedding has 32 rows"):
        resolve(str(path), cache=cache)


def test_a_masked_model_needs_a_mask_token(tmp_path: Path, cache: Path) -> None:
    path = save_checkpoint(tmp_path / "model", tokenizer=tiny_tokenizer(mask=False))
    with pytest.raises(CheckpointError, match="no mask token"):
        resolve(str(path), cache=cache)


def test_a_causal_model_needs_no_mask_token(tmp_path: Path, cache: Path) -> None:
    model = tiny_model("GPT2LMHeadModel", **TINY_GPT2)
    path = save_checkpoint(tmp_path / "model", model, tiny_tokenizer(mask=False))
    assert resolve(str(path), cache=cache).scoring == "causal"


def test_a_missing_tokenizer_is_refused(folder: Path, cache: Path) -> None:
    for file in folder.glob("tokenizer*"):
        file.unlink()
    with pytest.raises(CheckpointError, match="has no tokenizer"):
        resolve(str(folder), cache=cache)


@pytest.mark.parametrize("content", [None, "{", "{}", '{"model": {"type": "WordLevel"}}'])
def test_a_damaged_vocabulary_is_refused(content: str | None, folder: Path, cache: Path) -> None:
    file = folder / "tokenizer.json"
    if content is None:
        file.unlink()
    else:
        file.write_text(content)
    with pytest.raises(CheckpointError, match="tokenizer") as caught:
        resolve(str(folder), cache=cache)
    assert "\n" not in str(caught.value)


# --- hostile and unusual folders -----------------------------------------------------------------


def test_an_empty_folder_and_a_folder_without_config_are_refused(
    tmp_path: Path, folder: Path, cache: Path
) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError, match="has no safetensors weights"):
        resolve(str(tmp_path / "empty"), cache=cache)
    (folder / "config.json").unlink()
    with pytest.raises(CheckpointError, match=r"has no config\.json"):
        resolve(str(folder), cache=cache)


def test_pickles_are_never_read(folder: Path, cache: Path) -> None:
    (folder / "model.safetensors").unlink()
    torch.save({}, folder / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match="no safetensors weights"):
        resolve(str(folder), cache=cache)


def test_a_truncated_file_is_refused(folder: Path, cache: Path) -> None:
    os.truncate(folder / "model.safetensors", (folder / "model.safetensors").stat().st_size - 10)
    with pytest.raises(CheckpointError, match=r"model\.safetensors is truncated"):
        resolve(str(folder), cache=cache)


def test_code_in_the_folder_is_never_run(folder: Path, cache: Path) -> None:
    trap = folder / "trap.py"
    trap.write_text(f"open({str(folder / 'sprung')!r}, 'w')\nclass Trap: pass\n")
    shutil.copy(trap, folder / "conftest.py")
    auto_map = {"AutoConfig": "trap.Trap", "AutoModelForMaskedLM": "trap.Trap"}
    edit_config(folder, auto_map=auto_map)
    tokenizer_config = folder / "tokenizer_config.json"
    config = json.loads(tokenizer_config.read_text())
    config["auto_map"] = {"AutoTokenizer": ["trap.Trap", "trap.Trap"]}
    tokenizer_config.write_text(json.dumps(config))
    # A type that transformers contains is loaded with transformers' own code …
    try:
        resolve(str(folder), cache=cache).load_model()
    except CheckpointError as error:
        assert "never run" in str(error)  # noqa: PT017
    # … and one that it does not contain is refused.
    edit_config(folder, model_type="trap")
    with pytest.raises(CheckpointError, match="never run"):
        resolve(str(folder), cache=cache)
    assert not (folder / "sprung").exists()


def test_settings_that_would_fetch_other_code_or_weights_are_ignored(
    folder: Path, tmp_path: Path, cache: Path
) -> None:
    save_file({"x": torch.ones(1)}, tmp_path / "other.safetensors")
    edit_config(
        folder,
        transformers_weights="../other.safetensors",
        attn_implementation="somebody/kernel",
        fusion_config={"everything": True},
    )
    checkpoint = resolve(str(folder), cache=cache)
    model = checkpoint.load_model()
    assert model.config._attn_implementation in ("sdpa", "eager")
    assert not checkpoint.skeleton().training


def test_an_adapter_is_refused_with_advice(folder: Path, cache: Path) -> None:
    (folder / "adapter_config.json").write_text("{}")
    with pytest.raises(CheckpointError, match="merge_and_unload"):
        resolve(str(folder), cache=cache)


def test_a_quantised_checkpoint_without_its_package_is_one_sentence(
    folder: Path, cache: Path
) -> None:
    edit_config(folder, quantization_config={"quant_method": "bitsandbytes", "load_in_4bit": True})
    with pytest.raises(CheckpointError) as caught:
        resolve(str(folder), cache=cache)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["[]", "{", '{"a": 1, "a": 2}', "[" * 50_000, ""])
def test_a_config_that_is_no_plain_json_object_is_refused(
    text: str, folder: Path, cache: Path
) -> None:
    (folder / "config.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"config\.json"):
        resolve(str(folder), cache=cache)


def test_transformers_log_and_progress_bars_are_as_before_and_silent_within(
    folder: Path, cache: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    from transformers.utils import logging

    logging.set_verbosity_info()  # type: ignore[no-untyped-call]
    try:
        resolve(str(folder), cache=cache).load_model()
        assert logging.get_verbosity() == logging.INFO  # type: ignore[attr-defined]
        assert logging.is_progress_bar_enabled()
    finally:
        logging.set_verbosity_warning()  # type: ignore[no-untyped-call]
    captured = capfd.readouterr()
    assert captured.out + captured.err == ""


def test_a_caller_can_give_another_label(folder: Path, cache: Path) -> None:
    checkpoint = dataclasses.replace(resolve(str(folder), cache=cache), label="run-1-tiny")
    assert Checkpoint.from_dict(checkpoint.to_dict()).label == "run-1-tiny"
