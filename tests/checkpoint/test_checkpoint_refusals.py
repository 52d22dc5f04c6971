"""Tokenizers and folders that a checkpoint cannot be made of, and what is never done with them."""

import dataclasses
import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from robustness.checkpoint.checkpoint import Checkpoint
from robustness.checkpoint.resolving import resolve
from robustness.errors import CheckpointError
from tests.support.checkpoints import checkpoint_folders
from tests.support.checkpoints.checkpoint_folders import (
    TINY_GPT2,
    VOCABULARY,
    edit_config,
    save_checkpoint,
    tiny_model,
    tiny_tokenizer,
)

cache = checkpoint_folders.cache
folder = checkpoint_folders.folder


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


def test_an_adapter_alone_needs_its_base_and_one_beside_complete_weights_is_a_note(
    folder: Path, cache: Path
) -> None:
    (folder / "adapter_config.json").write_text('{"peft_type": "LORA"}')
    assert "adapter_config.json lies beside" in str(resolve(str(folder), cache=cache).note)
    (folder / "model.safetensors").rename(folder / "adapter_model.safetensors")
    with pytest.raises(CheckpointError, match="is a PEFT adapter"):
        resolve(str(folder), cache=cache)


LAID_OUT = {
    "shards without their index": (
        ["model-00001-of-00001.safetensors"],
        r"holds model-00001-of-00001\.safetensors, but not the index",
    ),
    "a variant": (
        ["model.fp16.safetensors"],
        r"holds model\.fp16\.safetensors, but no model\.safetensors: rename",
    ),
    "the folder of a run": (
        [
            "checkpoint-90/model.safetensors",
            "checkpoint-100/model.safetensors",
            "training_args.bin",
        ],
        r"subfolders do \(checkpoint-90, checkpoint-100\).*robustness trace",
    ),
    "a cache of the Hub": (
        ["snapshots/abc/model.safetensors"],
        r"subfolders do \(snapshots/abc\): give one of them\.",
    ),
    "DeepSpeed": (["global_step10/x.pt", "latest"], "accelerate merge-weights"),
    "FSDP": (["pytorch_model_fsdp_0/x"], "zero_to_fp32"),
    "a distributed checkpoint": (["__0_0.distcp"], "in pieces"),
    "ONNX": (["model.onnx"], "an export to ONNX: give"),
    "ONNX in a folder": (["onnx/model.onnx"], "an export to ONNX: give"),
    "nothing": (["training_args.bin"], "has no safetensors weights: "),
    "a pickle": (["pytorch_model.bin", "zero_to_fp32.py"], "may run code when read"),
}


@pytest.mark.parametrize(("files", "message"), LAID_OUT.values(), ids=LAID_OUT.keys())
def test_a_folder_without_weights_is_refused_by_what_it_holds(
    files: list[str], message: str, tmp_path: Path, cache: Path
) -> None:
    for name in ["config.json", *files]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    with pytest.raises(CheckpointError, match=message):
        resolve(str(tmp_path), cache=cache)


def test_a_pointer_of_git_lfs_is_named(folder: Path, cache: Path) -> None:
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 10\n"
    (folder / "model.safetensors").write_text(pointer)
    with pytest.raises(CheckpointError, match="git lfs pull"):
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
