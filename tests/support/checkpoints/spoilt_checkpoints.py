"""A checkpoint's files, with something wrong in them, for their readers."""

import json
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import save_file
from tokenizers import processors

from robustness.checkpoint.accounting import account
from robustness.checkpoint.checkpoint import Checkpoint
from robustness.checkpoint.conversions import unpickling
from robustness.checkpoint.conversions.adapters import Adapter
from robustness.checkpoint.gguf.config import gguf_config
from robustness.checkpoint.gguf.header import gguf_files, read_gguf_header
from robustness.checkpoint.gguf.tokenizer import gguf_tokenizer
from robustness.checkpoint.loading import loading_errors
from robustness.checkpoint.other_formats import ADAPTER_WEIGHTS
from robustness.checkpoint.resolving import resolve
from robustness.checkpoint.skeleton import map_names
from robustness.checkpoint.tokenization import load_tokenizer, verify_tokenizer
from robustness.checkpoint.weights import (
    INDEX_FILE,
    SINGLE_FILE,
    TensorInfo,
    read_header,
    read_tensors,
)
from robustness.corpus.blocks import text_blocks
from robustness.corpus.corpus import Corpus, load_corpus
from tests.support.checkpoints.checkpoint_folders import (
    VOCABULARY,
    save_checkpoint,
    tiny_model,
    tiny_tokenizer,
)
from tests.support.checkpoints.gguf_files import TOKENS, usual_keys, write_gguf, write_llama_gguf
from tests.support.checkpoints.gguf_models import MODELS
from tests.support.records.mutations import Arrange, Case, spoilt_bytes, spoilt_json

# --- weights -------------------------------------------------------------------------------------


def split_safetensors(content: bytes) -> tuple[dict[str, Any], bytes]:
    end = 8 + int.from_bytes(content[:8], "little")
    return json.loads(content[8:end]), content[end:]


def reads_as_the_library_does(file: Path) -> None:
    found = read_header(file)
    assert all(size >= 0 for info in found for size in info.shape)
    if sum(info.n_elements for info in found) == 0:
        return
    with safe_open(file, framework="pt") as library:
        shapes = {name: tuple(library.get_slice(name).get_shape()) for name in library.keys()}  # noqa: SIM118
    assert {info.name: info.shape for info in found} == shapes


def safetensors_header(folder: Path) -> Case:
    file = save_checkpoint(folder) / SINGLE_FILE
    header, data = split_safetensors(file.read_bytes())
    few = {name: header[name] for name in sorted(header)[:6]}
    end = 0
    for name in sorted(few, key=lambda name: few[name].get("data_offsets", [-1])):
        if name != "__metadata__":
            start, stop = few[name]["data_offsets"]
            few[name]["data_offsets"] = [end, end + stop - start]
            end += stop - start

    def with_data(text: bytes) -> bytes:
        return len(text).to_bytes(8, "little") + text + data[:end]

    return Case(
        file=file,
        valid=with_data(json.dumps(few).encode()),
        inputs=spoilt_json(few).map(with_data),
        read=lambda: reads_as_the_library_does(file),
    )


def safetensors_bytes(folder: Path) -> Case:
    file = save_checkpoint(folder) / SINGLE_FILE
    content = file.read_bytes()
    header_bytes = 8 + int.from_bytes(content[:8], "little")
    return Case(
        file=file,
        valid=content,
        inputs=st.one_of(spoilt_bytes(content), spoilt_bytes(content, head=header_bytes)),
        read=lambda: reads_as_the_library_does(file),
    )


def shard_index(folder: Path) -> Case:
    save_checkpoint(folder, max_shard_size="10KB")
    file = folder / INDEX_FILE
    content = file.read_bytes()
    inputs = spoilt_json(json.loads(content))

    def read() -> None:
        found = read_tensors(folder)
        assert {info.file.parent for info in found.values()} == {folder}

    return Case(file=file, valid=content, inputs=inputs, read=read)


def gguf_file(folder: Path) -> tuple[Path, int]:
    """A GGUF file, and how long its header is."""
    model = tiny_model(
        "LlamaForCausalLM", vocab_size=len(TOKENS), num_key_value_heads=1, tie_word_embeddings=True
    )
    folder.mkdir()
    file = write_llama_gguf(folder / "tiny.gguf", model)
    weights = sum(4 * parameter.numel() for parameter in model.parameters())
    return file, file.stat().st_size - weights


def reads_as_a_config(file: Path) -> None:
    found = read_gguf_header(file)
    size = sum(part.stat().st_size for part in gguf_files(file))
    assert found.float32_bytes <= 16 * size  # no type has fewer than 2 bits a number
    with loading_errors(f"The GGUF file {file}"):
        config = gguf_config(found, what=str(file))
    assert 0 < config.num_hidden_layers <= len(found.tensors)


def gguf_bytes(folder: Path) -> Case:
    file, header = gguf_file(folder)
    content = file.read_bytes()
    return Case(
        file=file,
        valid=content,
        inputs=st.one_of(spoilt_bytes(content, head=header), spoilt_bytes(content, head=64)),
        read=lambda: reads_as_a_config(file),
    )


def gguf_tokenizer_keys(folder: Path) -> Case:
    """Values of keys as JSON, since their types and how they agree are what is spoilt."""
    folder.mkdir()
    file = folder / "keys.json"
    keys: dict[str, Any] = {
        "model": "gpt2",
        "pre": "llama-bpe",
        "tokens": ["<|begin|>", "a", "b", "Ġ", "ab", "Ġab"],
        "token_type": [3, 1, 1, 1, 1, 1],
        "merges": ["a b", "Ġ ab"],
        "bos_token_id": 0,
        "unknown_token_id": 0,
        "add_eos_token": False,
        "add_space_prefix": False,
    }
    metadata = {f"tokenizer.ggml.{key}": value for key, value in keys.items()}

    def read() -> None:
        try:
            values = json.loads(file.read_bytes())
        except (ValueError, RecursionError):
            return
        if isinstance(values, dict):
            tokenizer = gguf_tokenizer(values, what="a.gguf")
            ids = tokenizer("ab ba")["input_ids"]
            assert all(0 <= number < len(values["tokenizer.ggml.tokens"]) for number in ids)

    valid = json.dumps(metadata).encode()
    return Case(file=file, valid=valid, inputs=spoilt_json(metadata), read=read)


def pickled_weights(*, zipped: bool) -> Arrange:
    """What the process for pickles does, in this one; the older form has no checksums."""

    def arrange(folder: Path) -> Case:
        folder.mkdir()
        file = folder / "pytorch_model.bin"
        tensors = {"a.weight": torch.arange(12.0).reshape(3, 4), "b": torch.ones(2).byte()}
        torch.save(tensors, file, _use_new_zipfile_serialization=zipped)
        content = file.read_bytes()

        def read() -> None:
            unpickling.convert(file, folder / SINGLE_FILE)
            read_header(folder / SINGLE_FILE)

        return Case(file=file, valid=content, inputs=spoilt_bytes(content), read=read)

    return arrange


def adapter_json(folder: Path) -> Case:
    """The settings of an adapter, whose base is beside it."""
    folder.mkdir()
    file = folder / "adapter_config.json"
    settings = {
        "peft_type": "LORA",
        "base_model_name_or_path": "../base",
        "r": 4,
        "lora_alpha": 6,
        "target_modules": ["q_proj"],
        "rank_pattern": {"q_proj": 2},
    }
    save_file({"base_model.model.a.weight": torch.ones(2)}, folder / "adapter_model.safetensors")

    def read() -> None:
        assert Adapter.read(folder, folder / ADAPTER_WEIGHTS, what="it").base(None)

    valid = json.dumps(settings).encode()
    return Case(file=file, valid=valid, inputs=spoilt_json(settings), read=read)


def accounted_tensors(folder: Path) -> Case:
    """Names, types and shapes of a model's tensors; what is not refused leaves nothing missing."""
    folder.mkdir()
    skeleton = tiny_model("LlamaForCausalLM", num_key_value_heads=1)
    header = {name: ["F32", list(value.shape)] for name, value in skeleton.state_dict().items()}
    few = {name: header[name] for name in sorted(header)[:6]}
    file = folder / "header.json"

    def read() -> None:
        try:
            drawn = json.loads(file.read_bytes())
        except (ValueError, RecursionError):
            return
        drawn = drawn if isinstance(drawn, dict) else {}
        tensors = {
            name: TensorInfo(name=name, file=file, dtype=str(kind), shape=shape, offset=0)
            for name, (kind, shape) in (header | _described(drawn)).items()
        }
        names = map_names(skeleton, tensors)
        assert names is not None
        notes = account(skeleton, names, tensors, what="it")
        assert len(notes) <= bool(names.unused) + bool(names.initial)

    valid = json.dumps(few).encode()
    return Case(file=file, valid=valid, inputs=spoilt_json(few), read=read)


def _described(drawn: dict[str, Any]) -> dict[str, Any]:
    """What a header could say of tensors, of what was drawn."""
    return {
        name: (value[0], tuple(n for n in value[1] if type(n) is int and n >= 0))
        for name, value in drawn.items()
        if isinstance(value, list) and len(value) == 2 and isinstance(value[1], list) and name
    }


def gguf_parts(folder: Path) -> Case:
    """The second of two parts is spoilt."""
    folder.mkdir()
    written = MODELS["llama, linear"]
    model = written.model()
    first, second = (
        write_gguf(folder / f"x-0000{n + 1}-of-00002.gguf", "llama", model, part=(n, 2))
        for n in range(2)
    )
    content = second.read_bytes()
    return Case(
        file=second,
        valid=content,
        inputs=st.one_of(spoilt_bytes(content, head=256), spoilt_bytes(content, head=2000)),
        read=lambda: reads_as_a_config(first),
    )


def gguf_settings(folder: Path) -> Case:
    """Settings of other types and sizes."""
    written = MODELS["llama, yarn with all it has"]
    settings = {**usual_keys(written.model().config), **written.keys}
    file = folder / "drawn.gguf"
    folder.mkdir()

    def with_settings(text: bytes) -> bytes:
        try:
            drawn = json.loads(text)
        except (ValueError, RecursionError):
            drawn = settings
        write_settings(file, drawn if isinstance(drawn, dict) else {"block_count": drawn})
        return file.read_bytes()

    return Case(
        file=file,
        valid=with_settings(json.dumps(settings).encode()),
        inputs=spoilt_json(settings).map(with_settings),
        read=lambda: reads_as_a_config(file),
    )


def write_settings(file: Path, settings: dict[str, Any]) -> None:
    """A GGUF file with these settings of a Llama, of whatever type, and hardly a tensor."""
    writer = gguf.GGUFWriter(str(file), "llama")
    for name, value in settings.items():
        key = f"llama.{name}".encode(errors="replace").decode()
        if isinstance(value, bool):
            writer.add_bool(key, value)
        elif isinstance(value, int) and -(2**63) <= value < 2**63:
            (writer.add_uint32 if 0 <= value < 2**32 else writer.add_int64)(key, value)
        elif isinstance(value, int | float):
            writer.add_float64(key, float(value))
        elif isinstance(value, str):
            writer.add_string(key, value.encode(errors="replace").decode())
        elif isinstance(value, list):
            numbers = [item for item in value if type(item) is int and abs(item) < 2**31]
            if numbers:
                writer.add_array(key, numbers)
    writer.add_tensor("token_embd.weight", np.zeros((len(TOKENS), 64), np.float32))
    for layer in range(4):
        writer.add_tensor(f"blk.{layer}.attn_norm.weight", np.zeros(64, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


# --- the checkpoint around them ------------------------------------------------------------------


def is_whole(folder: Path) -> None:
    checkpoint = resolve(str(folder), cache=folder.parent / "cache")
    assert type(checkpoint.n_parameters) is int
    assert checkpoint.n_parameters > 0
    assert type(checkpoint.vocab_size) is int
    assert Checkpoint.from_dict(json.loads(json.dumps(checkpoint.to_dict()))) == checkpoint
    model = checkpoint.load_model()
    assert all(bool(value.isfinite().all()) for value in model.parameters())


def config_json(folder: Path) -> Case:
    file = save_checkpoint(folder) / "config.json"
    content = file.read_bytes()
    inputs = st.one_of(spoilt_json(json.loads(content)), spoilt_bytes(content))
    return Case(file=file, valid=content, inputs=inputs, read=lambda: is_whole(folder))


def tokenizes(folder: Path, corpus: Corpus) -> None:
    tokenizer = load_tokenizer(folder, what=str(folder))
    verify_tokenizer(tokenizer, rows=VOCABULARY, scoring="masked", what=str(folder))
    blocks = text_blocks(corpus, tokenizer, block_size=16)
    assert blocks.n_blocks > 0
    assert all(0 <= int(row.min()) <= int(row.max()) < VOCABULARY for row in blocks.ids)


def tokenizer_file(name: str) -> Arrange:
    def arrange(folder: Path) -> Case:
        tokenizer = tiny_tokenizer()
        tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
            single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
        )
        file = save_checkpoint(folder, tokenizer=tokenizer) / name
        (folder.parent / "words.txt").write_text("w1 w2 w3 " * 50)
        corpus = load_corpus(str(folder.parent / "words.txt"))
        content = file.read_bytes()
        inputs = st.one_of(spoilt_json(json.loads(content)), spoilt_bytes(content))
        return Case(file=file, valid=content, inputs=inputs, read=lambda: tokenizes(folder, corpus))

    return arrange
