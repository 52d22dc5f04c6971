"""A checkpoint's files, with something wrong in them, for their readers."""

import json
from pathlib import Path
from typing import Any

import torch
from hypothesis import strategies as st
from safetensors import safe_open
from tokenizers import processors

from robustness.checkpoint.checkpoint import Checkpoint
from robustness.checkpoint.conversions import unpickling
from robustness.checkpoint.gguf.header import read_gguf_header
from robustness.checkpoint.gguf.tokenizer import gguf_tokenizer
from robustness.checkpoint.resolving import resolve
from robustness.checkpoint.tokenization import load_tokenizer, verify_tokenizer
from robustness.checkpoint.weights import INDEX_FILE, SINGLE_FILE, read_header, read_tensors
from robustness.corpus.blocks import text_blocks
from robustness.corpus.corpus import Corpus, load_corpus
from tests.support.checkpoints.checkpoint_folders import (
    VOCABULARY,
    save_checkpoint,
    tiny_model,
    tiny_tokenizer,
)
from tests.support.checkpoints.gguf_files import TOKENS, write_llama_gguf
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


def gguf_bytes(folder: Path) -> Case:
    model = tiny_model(
        "LlamaForCausalLM", vocab_size=len(TOKENS), num_key_value_heads=1, tie_word_embeddings=True
    )
    folder.mkdir()
    file = write_llama_gguf(folder / "tiny.gguf", model)
    content = file.read_bytes()
    header = len(content) - sum(4 * parameter.numel() for parameter in model.parameters())

    def read() -> None:
        found = read_gguf_header(file)
        assert found.architecture
        assert found.float32_bytes <= 16 * len(content)  # no type has fewer than 2 bits a number

    return Case(
        file=file,
        valid=content,
        inputs=st.one_of(spoilt_bytes(content, head=header), spoilt_bytes(content, head=64)),
        read=read,
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


def pickled_weights(folder: Path) -> Case:
    """What the process for pickles does, in this one; the older form has no checksums."""
    folder.mkdir()
    file = folder / "pytorch_model.bin"
    tensors = {"a.weight": torch.arange(12.0).reshape(3, 4), "b": torch.ones(2, dtype=torch.int8)}
    torch.save(tensors, file, _use_new_zipfile_serialization=False)
    content = file.read_bytes()

    def read() -> None:
        unpickling.convert(file, folder / SINGLE_FILE)
        read_header(folder / SINGLE_FILE)

    return Case(file=file, valid=content, inputs=spoilt_bytes(content), read=read)


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
