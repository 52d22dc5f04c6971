import os
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch

from robustness.checkpoint.checkpoint import Checkpoint
from robustness.checkpoint.gguf.header import read_gguf_header
from robustness.checkpoint.reading import ReadOptions
from robustness.checkpoint.reference import CheckpointRef
from robustness.checkpoint.resolving import resolve
from robustness.errors import CheckpointError
from tests.support import llama_cpp
from tests.support.checkpoints.checkpoint_folders import tiny_model, tiny_tokenizer
from tests.support.checkpoints.gguf_files import TOKENS, llama_cpp_order, write_llama_gguf
from tests.support.checkpoints.shared import smollm2_reference


def tiny_llama(*, tied: bool) -> Any:
    return tiny_model(
        "LlamaForCausalLM",
        vocab_size=len(TOKENS),
        num_attention_heads=4,
        num_key_value_heads=2,
        tie_word_embeddings=tied,
    )


@pytest.fixture(scope="session")
def smollm2(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    """The real model, converted once."""
    return resolve(smollm2_reference(), cache=tmp_path_factory.mktemp("smollm2"))


@pytest.fixture
def small_file(tmp_path: Path) -> Path:
    return write_llama_gguf(tmp_path / "small.gguf", tiny_llama(tied=True))


@pytest.mark.parametrize("tied", [True, False])
def test_a_model_survives_the_way_through_gguf(tied: bool, tmp_path: Path) -> None:
    model = tiny_llama(tied=tied)
    file = write_llama_gguf(tmp_path / "small.gguf", model)
    said: list[str] = []
    checkpoint = resolve(str(file), cache=tmp_path / "cache", progress=said.append)
    assert (checkpoint.source, checkpoint.label) == ("gguf", "small")
    assert (checkpoint.architecture, checkpoint.scoring) == ("LlamaForCausalLM", "causal")
    assert said == ["converting small.gguf to float32 safetensors, once"]

    loaded = checkpoint.load_model()
    expected = dict(model.named_parameters())
    assert dict(loaded.named_parameters()).keys() == expected.keys()
    for name, value in loaded.named_parameters():
        assert torch.equal(value, expected[name]), name
    assert (loaded.lm_head.weight is loaded.model.embed_tokens.weight) == tied
    tokenizer = checkpoint.load_tokenizer()
    ids = tokenizer("abc", return_tensors="pt")["input_ids"]
    assert torch.allclose(loaded(ids).logits, model(ids).logits, atol=1e-5)


def test_the_conversion_is_made_once_and_leaves_nothing_half_done(
    small_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / "cache"
    first = resolve(str(small_file), cache=cache)

    def never(*_: object) -> None:
        raise AssertionError("converted again")

    monkeypatch.setattr("robustness.checkpoint.gguf.conversion._convert", never)
    assert resolve(str(small_file), cache=cache) == first
    assert [path for path in (cache / "gguf").iterdir() if path.is_dir()] == [first.folder]


def test_processes_that_start_together_convert_once(small_file: Path, tmp_path: Path) -> None:
    code = (
        "import pathlib, sys; from robustness.checkpoint.resolving import resolve\n"
        "resolve(sys.argv[1], cache=pathlib.Path(sys.argv[2]), progress=print)"
    )
    command = [sys.executable, "-c", code, str(small_file), str(tmp_path / "cache")]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    outputs = [process.communicate()[0] for process in running]
    assert [process.returncode for process in running] == [0, 0]
    assert "".join(outputs).count("converting small.gguf") == 1
    assert len([path for path in (tmp_path / "cache" / "gguf").iterdir() if path.is_dir()]) == 1


def test_a_failed_conversion_is_cleaned_up_and_can_be_tried_again(
    small_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_file: Path, _summary: object, folder: Path, _tokenizer: bool) -> None:
        (folder / "config.json").write_text("half")
        raise RuntimeError("killed")

    cache = tmp_path / "cache"
    with monkeypatch.context() as patch:
        patch.setattr("robustness.checkpoint.gguf.conversion._convert", fail)
        with pytest.raises(CheckpointError, match=r"cannot be loaded \(killed\)"):
            resolve(str(small_file), cache=cache)
    assert not [path for path in (cache / "gguf").iterdir() if path.is_dir()]
    assert resolve(str(small_file), cache=cache).architecture == "LlamaForCausalLM"


def test_another_file_of_the_same_name_is_another_checkpoint(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    file = write_llama_gguf(tmp_path / "small.gguf", tiny_llama(tied=True))
    first = resolve(str(file), cache=cache)
    other = tiny_llama(tied=True)
    other.model.norm.weight.data += 1
    file.unlink()
    write_llama_gguf(file, other)
    second = resolve(str(file), cache=cache)
    assert first.revision != second.revision
    assert first.weights_hash != second.weights_hash
    assert first.folder != second.folder


def truncate(content: bytes) -> bytes:
    return content[:-100]


def cut_header(content: bytes) -> bytes:
    return content[:500]


def wrong_magic(content: bytes) -> bytes:
    return b"GGML" + content[4:]


def wrong_version(content: bytes) -> bytes:
    return content[:4] + struct.pack("<I", 99) + content[8:]


def many_tensors(content: bytes) -> bytes:
    return content[:8] + struct.pack("<Q", 2**40) + content[16:]


def long_string(content: bytes) -> bytes:
    return content[:24] + struct.pack("<Q", 2**62) + content[32:]


def empty(_: bytes) -> bytes:
    return b""


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (truncate, "is truncated: its header promises"),
        (cut_header, "truncated or damaged"),
        (wrong_magic, "not a GGUF file"),
        (wrong_version, "GGUF version 99"),
        (many_tensors, "damaged"),
        (long_string, "truncated or damaged"),
        (empty, "not a GGUF file"),
    ],
)
def test_a_broken_file_is_refused(
    damage: Callable[[bytes], bytes], message: str, small_file: Path, tmp_path: Path
) -> None:
    small_file.write_bytes(damage(small_file.read_bytes()))
    with pytest.raises(CheckpointError, match=message) as caught:
        resolve(str(small_file), cache=tmp_path / "cache")
    assert "small.gguf" in str(caught.value)


def test_an_architecture_that_transformers_cannot_read_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "strange.gguf"
    writer = gguf.GGUFWriter(str(file), "strange")
    writer.add_tensor("token_embd.weight", np.ones((4, 4), dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(CheckpointError, match="strange") as caught:
        resolve(str(file), cache=tmp_path / "cache")
    assert "\n" not in str(caught.value)


def test_a_file_without_some_weights_is_refused(tmp_path: Path) -> None:
    model = tiny_llama(tied=True)
    del model.model.layers[1].mlp.down_proj.weight
    file = write_llama_gguf(tmp_path / "small.gguf", model)
    with pytest.raises(CheckpointError, match=r"lacks weights .*down_proj"):
        resolve(str(file), cache=tmp_path / "cache")


def test_a_file_larger_than_memory_is_refused_before_anything_is_allocated(
    small_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Memory:
        available = 1000

    monkeypatch.setattr("psutil.virtual_memory", Memory)
    with pytest.raises(CheckpointError, match="of memory in float32"):
        resolve(str(small_file), cache=tmp_path / "cache")


def test_the_header_of_the_real_file_agrees_with_the_reference_library() -> None:
    path = Path(CheckpointRef.parse(smollm2_reference()).target)
    header = read_gguf_header(path)
    reader = gguf.GGUFReader(path)
    assert header.architecture == "llama"
    assert header.shapes == {
        tensor.name: tuple(int(n) for n in reversed(tensor.shape)) for tensor in reader.tensors
    }


def test_the_real_model_holds_the_values_of_its_file(smollm2: Checkpoint) -> None:
    assert (smollm2.source, smollm2.architecture) == ("package", "LlamaForCausalLM")
    assert smollm2.n_parameters == 134_515_008
    assert (smollm2.vocab_size, smollm2.max_positions) == (49152, 8192)
    reader = gguf.GGUFReader(CheckpointRef.parse(smollm2_reference()).target)
    tensors = {tensor.name: tensor for tensor in reader.tensors}
    for ours, theirs in [
        ("model.embed_tokens.weight", "token_embd.weight"),
        ("lm_head.weight", "token_embd.weight"),
        ("model.norm.weight", "output_norm.weight"),
        ("model.layers.0.mlp.down_proj.weight", "blk.0.ffn_down.weight"),
        ("model.layers.29.mlp.down_proj.weight", "blk.29.ffn_down.weight"),
        ("model.layers.7.post_attention_layernorm.weight", "blk.7.ffn_norm.weight"),
        ("model.layers.7.self_attn.v_proj.weight", "blk.7.attn_v.weight"),
    ]:
        tensor = tensors[theirs]
        expected = gguf.dequantize(tensor.data, tensor.tensor_type)
        np.testing.assert_array_equal(smollm2.tensor(ours), expected)
    tensor = tensors["blk.7.attn_k.weight"]
    stored = gguf.dequantize(tensor.data, tensor.tensor_type)
    keys = llama_cpp_order(
        torch.from_numpy(smollm2.tensor("model.layers.7.self_attn.k_proj.weight")), 3
    )
    np.testing.assert_array_equal(keys.numpy(), stored)


def test_the_real_model_knows_its_language(smollm2: Checkpoint) -> None:
    model, tokenizer = smollm2.load_model(), smollm2.load_tokenizer()
    assert model.lm_head.weight is model.model.embed_tokens.weight
    ids = tokenizer("The capital of France is", return_tensors="pt")["input_ids"]
    with torch.no_grad():
        best = model(ids).logits[0, -1].argmax()
    assert tokenizer.decode(best).strip() == "Paris"


def test_the_real_model_makes_the_tokens_that_llama_cpp_makes(smollm2: Checkpoint) -> None:
    tokenizer = smollm2.load_tokenizer()
    kept = llama_cpp.kept()["files"]["smollm2"]
    assert tokenizer(llama_cpp.TEXTS)["input_ids"] == kept["ids"]
    assert len(tokenizer("1. item\n\n2. item\n\n" * 20)["input_ids"]) == 160


def test_the_weights_are_memory_mapped(smollm2: Checkpoint) -> None:
    if not os.path.exists("/proc/self/maps"):  # noqa: PTH110
        pytest.skip("needs /proc to see how memory is mapped")
    model = smollm2.load_model()
    mapped = [
        tuple(int(end, 16) for end in line.split()[0].split("-"))
        for line in Path("/proc/self/maps").read_text().splitlines()
        if str(smollm2.folder) in line
    ]
    for name, parameter in model.named_parameters():
        assert any(start <= parameter.data_ptr() < end for start, end in mapped), name


def test_a_tokenizer_that_cannot_be_rebuilt_can_be_replaced(tmp_path: Path) -> None:
    file = write_llama_gguf(tmp_path / "small.gguf", tiny_llama(tied=True), pre="of-mars")
    store = tmp_path / "store"
    with pytest.raises(CheckpointError, match=r"'of-mars'.* --robustness-tokenizer=REF"):
        resolve(str(file), cache=store)
    other = tmp_path / "tokenizer"
    tiny_tokenizer(len(TOKENS)).save_pretrained(other)
    options = ReadOptions(tokenizer=str(other))
    checkpoint = resolve(str(file), cache=store, options=options)
    assert "the tokenizer is not its own" in str(checkpoint.note)
    assert len(checkpoint.load_tokenizer()) == len(TOKENS)
    assert list(checkpoint.folder.glob("*token*")) == []
    assert checkpoint.load_model() is not None
