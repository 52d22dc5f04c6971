import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from robustness.checkpoint.architecture import candidates
from robustness.checkpoint.checkpoint import Checkpoint
from robustness.checkpoint.resolving import resolve
from robustness.errors import CheckpointError
from tests.support.checkpoints import checkpoint_folders
from tests.support.checkpoints.checkpoint_folders import (
    TINY_GPT2,
    VOCABULARY,
    change_weights,
    edit_config,
    save_checkpoint,
    tiny_model,
    tiny_tokenizer,
)
from tests.support.checkpoints.shared import shared_model

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

cache = checkpoint_folders.cache
folder = checkpoint_folders.folder


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
    if "albert" in name:
        assert "down_scale_factor" in str(checkpoint.note)
    else:
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
        "import json, sys; from robustness.checkpoint.checkpoint import Checkpoint\n"
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
        "import json, pathlib, sys; from robustness.checkpoint.resolving import resolve\n"
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


@pytest.mark.parametrize("name", ["Gemma3", "Qwen3_5", "MossTranscribeDiarize", "Voxtral"])
def test_what_could_also_read_images_or_sounds_is_vetted_on_text(name: str) -> None:
    import transformers

    declared = f"{name}ForConditionalGeneration"
    config = getattr(transformers, f"{name}Config")(architectures=[declared])
    (found,) = candidates(config, what="checkpoint")
    assert (found.name, found.scoring) == (declared, "causal")


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
