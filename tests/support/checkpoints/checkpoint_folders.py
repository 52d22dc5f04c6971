"""Small random checkpoints in folders, as `save_pretrained` and the Hub client lay them out."""

import hashlib
import json
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

VOCABULARY = 32
TINY_GPT2 = {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 40}
_SPECIAL = {
    "pad_token": "[PAD]",
    "unk_token": "[UNK]",
    "cls_token": "[CLS]",
    "sep_token": "[SEP]",
    "mask_token": "[MASK]",
}
_SIZES = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}


def tiny_tokenizer(size: int = VOCABULARY, *, mask: bool = True) -> Any:
    """A word-level tokenizer with ids 0 .. size-1."""
    special = {key: token for key, token in _SPECIAL.items() if mask or key != "mask_token"}
    words = [*special.values(), *(f"w{n}" for n in range(size))][:size]
    backend = Tokenizer(models.WordLevel(dict(zip(words, range(size), strict=True)), "[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    cls: Any = PreTrainedTokenizerFast  # partly untyped
    return cls(tokenizer_object=backend, **special)


def tiny_model(class_name: str = "BertForMaskedLM", **settings: Any) -> Any:
    """A random model of a transformers class."""
    cls = getattr(transformers, class_name)
    config_class = cls.config_class
    known = {"vocab_size": VOCABULARY, "pad_token_id": 0, **_SIZES, **settings}
    if config_class.model_type in ("bert", "roberta", "electra", "llama", "albert"):
        known = {"intermediate_size": 24, "max_position_embeddings": 40, **known}
    torch.manual_seed(0)
    return cls(config_class(**known)).eval()


def save_checkpoint(folder: Path, model: Any = None, tokenizer: Any = None, **options: Any) -> Path:
    """Save a model (a BERT by default) and a tokenizer that fits."""
    (model if model is not None else tiny_model()).save_pretrained(folder, **options)
    (tokenizer if tokenizer is not None else tiny_tokenizer()).save_pretrained(folder)
    return folder


def edit_config(folder: Path, **settings: Any) -> Path:
    """Change settings of config.json; None removes one."""
    file = folder / "config.json"
    config = {**json.loads(file.read_text()), **settings}
    file.write_text(json.dumps({key: value for key, value in config.items() if value is not None}))
    return folder


def edit_tensors(folder: Path, edit: Callable[[dict[str, Any]], None]) -> Path:
    """Change tensors of model.safetensors in place, as arrays in float32."""
    import numpy as np
    from safetensors.numpy import load_file, save_file

    file = folder / "model.safetensors"
    tensors: dict[str, Any] = dict(load_file(file))
    edit(tensors)
    arrays = {name: np.asarray(value, dtype=np.float32) for name, value in tensors.items()}
    save_file(arrays, file, metadata={"format": "pt"})
    return folder


def write_safetensors(file: Path, header: Any, data: bytes = b"") -> Path:
    """A file with any header at all, also an impossible one."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    file.write_bytes(struct.pack("<Q", len(text)) + text + data)
    return file


def hub_cache(
    cache: Path, folder: Path, name: str, *, commit: str = "c" * 40, revision: str = "main"
) -> Path:
    """Lay a folder out as the Hub client's cache does: blobs, refs, snapshots."""
    repository = cache / f"models--{name.replace('/', '--')}"
    snapshot = repository / "snapshots" / commit
    snapshot.mkdir(parents=True)
    (repository / "blobs").mkdir(exist_ok=True)
    (repository / "refs").mkdir(exist_ok=True)
    (repository / "refs" / revision).write_text(commit)
    for file in folder.iterdir():
        content = file.read_bytes()
        large = file.suffix == ".safetensors"  # the Hub names large files by sha256, others by sha1
        digest = hashlib.sha256(content) if large else hashlib.sha1(content)
        blob = repository / "blobs" / digest.hexdigest()
        shutil.copy(file, blob)
        (snapshot / file.name).symlink_to(Path("../../blobs") / blob.name)
    return snapshot


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


def change_weights(folder: Path) -> None:
    def add(tensors: dict[str, torch.Tensor]) -> None:
        tensors["bert.embeddings.LayerNorm.bias"] += 1

    rewrite_weights(folder, add)
