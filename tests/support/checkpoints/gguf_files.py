"""Small GGUF files, written with the reference library as llama.cpp's converter writes them.

What is done to tensors is written after llama.cpp's ``conversion/*.py``, not after the package.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from transformers.convert_slow_tokenizer import bytes_to_unicode

_bytes_to_unicode: Any = bytes_to_unicode  # untyped
TOKENS: list[str] = ["<|endoftext|>", *_bytes_to_unicode().values(), "ab"]
_PERMUTED = ("llama", "granite", "minicpm", "smollm3")


def llama_cpp_order(weight: torch.Tensor, n_heads: int) -> torch.Tensor:
    """Rows of a query or key projection as llama.cpp's rotary embedding wants them."""
    halves = weight.reshape(n_heads, 2, weight.shape[0] // n_heads // 2, *weight.shape[1:])
    return halves.swapaxes(1, 2).reshape(weight.shape)


def write_llama_gguf(
    file: Path,
    model: Any,
    *,
    pre: str = "gpt-2",
    tokens: Sequence[str] = TOKENS,
    token_types: Sequence[int] | None = None,
    merges: Sequence[str] = ("a b",),
) -> Path:
    """Write a LlamaForCausalLM in float32, with a byte-level tokenizer."""
    vocabulary = {"pre": pre, "tokens": tokens, "token_types": token_types, "merges": merges}
    return write_gguf(file, "llama", model, vocabulary=vocabulary)


def write_gguf(
    file: Path,
    architecture: str,
    model: Any,
    keys: Mapping[str, Any] | None = None,
    tensors: Mapping[str, Any] | None = None,
    *,
    part: tuple[int, int] = (0, 1),
    vocabulary: Mapping[str, Any] | None = None,
) -> Path:
    """Write a model in float32, with a byte-level tokenizer.

    Args:
        file: The file.
        architecture: llama.cpp's name of its architecture.
        model: The model, of ``len(TOKENS)`` tokens.
        keys: Settings under the architecture's prefix beside the usual ones; None removes one.
        tensors: More tensors, or others; None removes one.
        part: The number (from 0) of the part of how many to write.
        vocabulary: Another tokenizer than the usual one.
    """
    number, count = part
    writer = gguf.GGUFWriter(str(file), architecture)
    if count > 1:
        writer.add_uint16("split.no", number)
        writer.add_uint16("split.count", count)
    if number == 0:
        for key, value in {**usual_keys(model.config), **(keys or {})}.items():
            _add(writer, f"{architecture}.{key}", value)
        _add_tokenizer(writer, **(vocabulary or {}))
    stored = {**dict(stored_tensors(architecture, model)), **(tensors or {})}
    names = [name for name, value in stored.items() if value is not None]
    for name in names[number::count]:
        writer.add_tensor(name, np.ascontiguousarray(stored[name], dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file


def usual_keys(config: Any) -> dict[str, Any]:
    """The settings that llama.cpp's converter writes of every model."""
    names = {
        "context_length": ("max_position_embeddings",),
        "embedding_length": ("hidden_size",),
        "block_count": ("num_hidden_layers",),
        "feed_forward_length": ("intermediate_size", "ffn_hidden_size"),
        "attention.head_count": ("num_attention_heads",),
        "attention.head_count_kv": ("num_key_value_heads", "num_kv_heads"),
        "attention.key_length": ("head_dim",),
        "attention.value_length": ("head_dim",),
        "attention.layer_norm_rms_epsilon": ("rms_norm_eps",),
        "attention.layer_norm_epsilon": ("layer_norm_eps", "layer_norm_epsilon", "norm_epsilon"),
        "vocab_size": ("vocab_size",),
    }
    found = {
        key: next((getattr(config, name) for name in several if hasattr(config, name)), None)
        for key, several in names.items()
    }
    rope = getattr(config, "rope_parameters", None) or {}
    if "rope_theta" in rope:
        found["rope.freq_base"] = float(rope["rope_theta"])
    return found


def stored_tensors(architecture: str, model: Any) -> Iterator[tuple[str, Any]]:
    """A model's tensors as llama.cpp's converter stores them."""
    numbers = {name: number for number, name in gguf.MODEL_ARCH_NAMES.items()}
    table = gguf.get_tensor_name_map(numbers[architecture], model.config.num_hidden_layers)
    for name, parameter in model.named_parameters():
        value = parameter.detach().float()
        block = next((part for part in name.split(".") if part.isdigit()), "")
        if ".experts." in name:
            yield from _experts(name, value, f"blk.{block}.ffn", architecture)
            continue
        name = name + ".weight" if name.endswith("sinks") else name
        for known in (name, name.removeprefix(f"{model.base_model_prefix}.")):
            stored = table.get_name(known, try_suffixes=(".weight", ".bias"))
            if stored is not None:
                yield stored, _converted(architecture, name, value, model.config).numpy()
                break
        else:
            raise AssertionError(f"llama.cpp has no name for {name}")


def _experts(
    name: str, value: torch.Tensor, prefix: str, architecture: str
) -> Iterator[tuple[str, Any]]:
    kind = "bias" if name.endswith("_bias") else "weight"
    alternating = architecture == "gpt-oss"
    if alternating and kind == "weight":
        value = value.transpose(1, 2)
    if "down_proj" in name:
        yield f"{prefix}_down_exps.{kind}", value.numpy()
        return
    half = value.shape[1] // 2
    gate, up = (
        (value[:, ::2], value[:, 1::2]) if alternating else (value[:, :half], value[:, half:])
    )
    yield f"{prefix}_gate_exps.{kind}", gate.numpy()
    yield f"{prefix}_up_exps.{kind}", up.numpy()


def _converted(architecture: str, name: str, value: torch.Tensor, config: Any) -> torch.Tensor:
    if architecture in _PERMUTED and ".q_proj." in name:
        return llama_cpp_order(value, config.num_attention_heads)
    if architecture in _PERMUTED and ".k_proj." in name:
        return llama_cpp_order(value, config.num_key_value_heads)
    if architecture.startswith(("gemma", "nemotron")) and name.endswith("norm.weight"):
        return value + 1
    if architecture == "gpt2" and name.endswith(("c_attn.weight", "c_proj.weight", "c_fc.weight")):
        return value.T
    if "query_key_value" in name:
        heads = config.num_attention_heads
        groups = config.num_kv_heads if architecture == "falcon" else heads
        split = value.reshape(groups, heads // groups + 2, -1, *value.shape[1:])
        rows = [split[:, :-2], split[:, -2:-1], split[:, -1:]]
        return torch.cat([part.reshape(-1, *value.shape[1:]) for part in rows])
    if name.endswith(("conv1d.weight", "conv.conv.weight")):
        return value.squeeze(1)
    if name.endswith("A_log"):
        return -torch.exp(value)
    if name.endswith("shared_expert_gate.weight"):
        return value.squeeze(0)
    return value


def _add(writer: gguf.GGUFWriter, key: str, value: Any) -> None:
    if isinstance(value, bool):
        writer.add_bool(key, value)
    elif isinstance(value, int):
        writer.add_uint32(key, value)
    elif isinstance(value, float):
        writer.add_float32(key, value)
    elif isinstance(value, str):
        writer.add_string(key, value)
    elif value is not None:
        writer.add_array(key, value)


def _add_tokenizer(
    writer: gguf.GGUFWriter,
    pre: str = "gpt-2",
    tokens: Sequence[str] = TOKENS,
    token_types: Sequence[int] | None = None,
    merges: Sequence[str] = ("a b",),
) -> None:
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(list(tokens))
    writer.add_token_types(token_types or [3] + [1] * (len(tokens) - 1))
    writer.add_token_merges(list(merges))
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(0)
