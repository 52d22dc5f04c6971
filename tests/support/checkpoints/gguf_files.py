"""Small GGUF files, written with the reference library as llama.cpp's converter writes them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gguf
import torch
from transformers.convert_slow_tokenizer import bytes_to_unicode

_bytes_to_unicode: Any = bytes_to_unicode  # untyped
TOKENS: list[str] = ["<|endoftext|>", *_bytes_to_unicode().values(), "ab"]


def llama_cpp_order(weight: torch.Tensor, n_heads: int) -> torch.Tensor:
    """Rows of a query or key projection as llama.cpp's rotary embedding wants them."""
    rows, columns = weight.shape
    halves = weight.reshape(n_heads, 2, rows // n_heads // 2, columns)
    return halves.swapaxes(1, 2).reshape(rows, columns)


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
    config = model.config
    writer = gguf.GGUFWriter(str(file), "llama")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_vocab_size(config.vocab_size)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(list(tokens))
    writer.add_token_types(token_types or [3] + [1] * (len(tokens) - 1))
    writer.add_token_merges(list(merges))
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(0)
    for name, parameter in model.named_parameters():
        value = parameter.detach()
        if name.endswith("q_proj.weight"):
            value = llama_cpp_order(value, config.num_attention_heads)
        if name.endswith("k_proj.weight"):
            value = llama_cpp_order(value, config.num_key_value_heads)
        writer.add_tensor(_gguf_name(name), value.numpy().copy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file


def _gguf_name(name: str) -> str:
    names = {
        "model.embed_tokens": "token_embd",
        "model.norm": "output_norm",
        "lm_head": "output",
        "self_attn.q_proj": "attn_q",
        "self_attn.k_proj": "attn_k",
        "self_attn.v_proj": "attn_v",
        "self_attn.o_proj": "attn_output",
        "mlp.gate_proj": "ffn_gate",
        "mlp.up_proj": "ffn_up",
        "mlp.down_proj": "ffn_down",
        "input_layernorm": "attn_norm",
        "post_attention_layernorm": "ffn_norm",
        "model.layers.": "blk.",
    }
    for ours, theirs in names.items():
        name = name.replace(ours, theirs)
    return name
