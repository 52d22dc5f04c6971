"""From a GGUF file's settings to a transformers config: each is used, without effect, or refused.

transformers' own tables of GGUF drop what they do not know, such as the scaling of rotary
embeddings, so none of them is used.
"""

from collections.abc import Iterable, Mapping, Set
from typing import Any

import numpy as np

from robustness.checkpoint.gguf.header import GgufSummary, stored_bytes
from robustness.checkpoint.gguf.rope import head_width, rope_parameters
from robustness.checkpoint.gguf.settings import Settings
from robustness.errors import CheckpointError

_ENTRIES: Mapping[str, tuple[str, ...]] = {
    "context_length": ("max_position_embeddings",),
    "embedding_length": ("hidden_size",),
    "block_count": ("num_hidden_layers",),
    "feed_forward_length": ("intermediate_size", "n_inner", "ffn_hidden_size"),
    "attention.head_count": ("num_attention_heads",),
    "attention.head_count_kv": ("num_key_value_heads", "num_kv_heads"),
    "attention.key_length": ("head_dim",),
    "attention.layer_norm_rms_epsilon": ("rms_norm_eps", "norm_eps", "layer_norm_epsilon"),
    "attention.layer_norm_epsilon": (
        "layer_norm_epsilon",
        "layer_norm_eps",
        "norm_epsilon",
        "norm_eps",
    ),
    "attention.scale": ("attention_multiplier",),
    "attn_logit_softcapping": ("attn_logit_softcapping",),
    "final_logit_softcapping": ("final_logit_softcapping",),
    "logit_scale": ("logits_scaling", "logit_scale"),
    "embedding_scale": ("embedding_multiplier",),
    "residual_scale": ("residual_multiplier",),
    "expert_count": ("num_local_experts", "num_experts"),
    "expert_used_count": ("num_experts_per_tok",),
    "expert_feed_forward_length": ("moe_intermediate_size", "intermediate_size"),
    "expert_shared_feed_forward_length": ("shared_expert_intermediate_size",),
    "expert_weights_norm": ("norm_topk_prob",),
    "use_parallel_residual": ("use_parallel_residual",),
    "shortconv.l_cache": ("conv_L_cache",),
    "ssm.conv_kernel": ("conv_kernel",),
    "ssm.state_size": ("state_size",),
    "ssm.inner_size": ("intermediate_size",),
    "ssm.time_step_rank": ("time_step_rank",),
}
"""Settings under an architecture's prefix, and what they are called in a config: the first that
its class has."""

_FLAGS = frozenset({"expert_weights_norm", "use_parallel_residual"})
_FRACTIONS = ("epsilon", "scale", "softcapping")


def gguf_config(summary: GgufSummary, *, what: str) -> Any:
    """The transformers config of a GGUF file.

    Raises:
        CheckpointError: Its architecture is unknown, or a setting is missing, impossible, or
            nothing that transformers' class could obey.
    """
    from transformers import AutoConfig

    settings = Settings(summary, what)
    architecture = settings.architecture
    make: Any = AutoConfig.for_model
    defaults = make(architecture.model_type)
    known = defaults.to_dict().keys() | defaults.attribute_map.keys()
    _require_sense(settings, summary, known)
    entries = {**architecture.fixed, **_from_tensors(settings, summary, known)}
    derived = {}
    if architecture.derive is not None:
        derived = dict(architecture.derive(settings.values, summary.tensors))
    for key, names in _ENTRIES.items():
        if key in settings.values.keys() - architecture.ignored and not settings.is_neutral(key):
            _enter(settings, key, names, known, entries, derived)
    entries |= derived
    if "original_max_position_embeddings" in known:
        length = settings.take("rope.scaling.original_context_length")
        entries["original_max_position_embeddings"] = length or settings.values["context_length"]
    _add_windows(settings, known, entries)
    if "rope_parameters" in known:
        entries["rope_parameters"] = rope_parameters(settings, summary, defaults)
    settings.refuse_unused()
    config = make(architecture.model_type, **entries, **_special_tokens(summary, entries))
    for name, value in entries.items():
        if name != "rope_parameters" and getattr(config, name, None) != value:
            raise CheckpointError(
                f"{what} needs {name} to be {value!r}, which this version of transformers does "
                f"not take over into {type(config).__name__}: update transformers."
            )
    return config


def _require_sense(settings: Settings, summary: GgufSummary, known: Set[str]) -> None:
    """Refuse settings that are missing, or contradict the tensors."""
    settings.require("embedding_length", "block_count", *settings.architecture.required)
    if "num_attention_heads" in known:
        settings.require("attention.head_count")
        width = head_width(settings)
        if settings.number("attention.value_length", width) != width:
            raise settings.refused("attention.value_length", f"although keys have {width} features")
    if "max_position_embeddings" in known:
        settings.require("context_length")
    epsilons = [key for key in _ENTRIES if key.endswith("epsilon")]
    if not any(key in settings.values for key in epsilons):
        settings.require(epsilons[0])
    if "token_embd.weight" not in summary.tensors:
        raise CheckpointError(f"{settings.what} lacks the tensor token_embd.weight: it is damaged.")
    blocks = {name.split(".")[1] for name in summary.tensors if name.startswith("blk.")}
    if blocks != {str(n) for n in range(min(settings.values["block_count"], len(blocks) + 1))}:
        raise settings.refused("block_count", f"but has tensors of {len(blocks)} layers")


def _enter(
    settings: Settings,
    key: str,
    names: Iterable[str],
    known: Set[str],
    entries: dict[str, Any],
    derived: Mapping[str, Any],
) -> None:
    """Use one setting as an entry of the config."""
    name = next((name for name in names if name in known), None)
    if name in derived:
        settings.take(key)
        return
    if key in _FLAGS:
        value = settings.values[key]
        if not isinstance(value, bool):
            raise settings.refused(key, "which is neither true nor false")
    else:
        value = settings.number(key, whole=not key.endswith(_FRACTIONS))
    heads, width = settings.values.get("attention.head_count"), settings.values["embedding_length"]
    implied = {
        "attention.head_count_kv": heads,
        "attention.key_length": heads and width // heads,
        "feed_forward_length": 4 * width,
    }
    if name is not None:
        settings.take(key)
        entries[name] = value
    elif value != implied.get(key):
        settings.used.discard(key)


def _from_tensors(settings: Settings, summary: GgufSummary, known: Set[str]) -> dict[str, Any]:
    """The entries that the tensors show."""
    tensors = summary.tensors
    embedding, output = tensors["token_embd.weight"], tensors.get("output.weight")
    tied = output is None or (
        output.kind == embedding.kind
        and output.shape == embedding.shape
        and np.array_equal(stored_bytes(output), stored_bytes(embedding))
    )
    entries: dict[str, Any] = {"vocab_size": embedding.shape[0], "tie_word_embeddings": tied}
    for name, part in (
        ("moe_intermediate_size", "ffn_gate_exps"),
        ("shared_expert_intermediate_size", "ffn_gate_shexp"),
    ):
        if name in known and (tensor := tensors.get(f"blk.0.{part}.weight")):
            entries[name] = tensor.shape[-2]
    for name, parts in settings.architecture.switches.items():
        entries[name] = any(f"blk.0.{part}" in tensors for part in parts)
    return entries


def _special_tokens(summary: GgufSummary, entries: Mapping[str, Any]) -> dict[str, int | None]:
    """The ids of special tokens; the class's defaults are another vocabulary's."""
    names = {"bos": "bos_token_id", "eos": "eos_token_id", "padding": "pad_token_id"}
    ids = {
        name: summary.settings.get(f"tokenizer.ggml.{key}_token_id") for key, name in names.items()
    }
    known = range(entries["vocab_size"])
    return {name: n if type(n) is int and n in known else None for name, n in ids.items()}


def _add_windows(settings: Settings, known: Set[str], entries: dict[str, Any]) -> None:
    """Which layers see how many tokens back."""
    every = settings.architecture.window_every
    if every is None:
        return
    window = settings.number(
        "attention.sliding_window", entries.pop("sliding_window", None), whole=True
    )
    layers = settings.values["block_count"]
    pattern = settings.take("attention.sliding_window_pattern", every if every > 1 else 0)
    if type(pattern) is int and pattern >= 0:
        pattern = [pattern == 0 or layer % pattern < pattern - 1 for layer in range(layers)]
    if not isinstance(pattern, list) or len(pattern) != layers:
        raise settings.refused("attention.sliding_window_pattern", "which is no pattern of layers")
    if "layer_types" in known:
        kinds = ("full_attention", "sliding_attention")
        entries["layer_types"] = [kinds[bool(window and narrow)] for narrow in pattern]
    elif window and not all(pattern):
        raise settings.refused(
            "attention.sliding_window_pattern", "but transformers knows one window for all layers"
        )
    if window or "layer_types" not in known:
        entries["sliding_window"] = window or None
