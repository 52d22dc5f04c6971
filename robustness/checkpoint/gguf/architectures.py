"""What llama.cpp's architectures are in transformers, and what its converter did to their tensors.

One entry each. Everything that the entry, the keys common to all (`config`) and gguf's table of
tensor names leave unsaid of a file makes it be refused. Sources: llama.cpp's `conversion/*.py` and
`src/models/*.cpp`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]
Undo = Callable[[Array, Any], Array]
"""From a tensor as llama.cpp stores it and the config, to the tensor as transformers wants it."""
Derive = Callable[[Mapping[str, Any], Mapping[str, Any]], Mapping[str, Any]]
"""From the settings under the architecture's prefix and the tensors, to entries of the config."""


def _one_after_another(gate: Array, up: Array) -> Array:
    return np.concatenate([gate, up], axis=1)


def _alternating(gate: Array, up: Array) -> Array:
    """GPT-OSS: (E, I, D) twice to (E, D, 2 I), of biases (E, I) twice to (E, 2 I)."""
    pairs = np.stack([gate, up], axis=2)
    rows = pairs.reshape(len(gate), -1, *gate.shape[2:])
    return rows.swapaxes(1, -1) if gate.ndim == 3 else rows


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """One of llama.cpp's architectures.

    Attributes:
        model_type: What transformers calls it.
        fixed: Entries of the config that llama.cpp takes for granted where no key says otherwise.
        switches: Entries of the config that are true where layer 0 has one of these tensors.
        derive: Entries of the config that follow from several settings.
        undo: What to do to tensors, by a part of their names in the file.
        window_every: One layer in that many sees all tokens where the file gives no pattern; 1: the
            window is every layer's; None: transformers' class has no window.
        window_base: Base of the rotary embedding in layers with a window, where the file gives
            none; None: that of the others.
        yarn: More parameters of YaRN.
        join: How an expert's two halves become one tensor.
        required: More keys that the file must set.
        neutral: Keys, and the values with which they change nothing.
        ignored: Keys that do not matter to a forward pass.
        variants: The architecture to take instead where a key is set, and not to 0.
    """

    model_type: str
    fixed: Mapping[str, Any] = field(default_factory=dict)
    switches: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    derive: Derive | None = None
    undo: Mapping[str, Undo] = field(default_factory=dict)
    window_every: int | None = None
    window_base: float | None = None
    yarn: Mapping[str, Any] = field(default_factory=dict)
    join: Callable[[Array, Array], Array] = _one_after_another
    required: tuple[str, ...] = ()
    neutral: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    ignored: frozenset[str] = frozenset()
    variants: Mapping[str, "Architecture"] = field(default_factory=dict)


def _interleaved(heads: str) -> Undo:
    """Rows of a projection in pairs, as llama.cpp's rotary embedding wants them, to halves."""

    def undo(values: Array, config: Any) -> Array:
        pairs = values.reshape(getattr(config, heads), -1, 2, *values.shape[1:])
        return pairs.swapaxes(1, 2).reshape(values.shape)

    return undo


def _minus_one(values: Array, _: Any) -> Array:
    return values - 1


def _transposed(values: Array, _: Any) -> Array:
    return values.T


def _swapped(values: Array, _: Any) -> Array:
    return values.swapaxes(1, 2)


def _grouped(values: Array, config: Any) -> Array:
    """Queries, keys and values one after another, to those of each key's group of heads."""
    queries = config.num_attention_heads
    groups = getattr(config, "num_kv_heads", queries)
    heads = values.reshape(queries + 2 * groups, -1, *values.shape[1:])
    query, key, value = np.split(heads, [queries, queries + groups])
    parts = [part.reshape(groups, -1, *heads.shape[1:]) for part in (query, key, value)]
    return np.concatenate(parts, axis=1).reshape(values.shape)


def _axis(place: int) -> Undo:
    def undo(values: Array, _: Any) -> Array:
        return np.expand_dims(values, place)

    return undo


def _logarithm(values: Array, _: Any) -> Array:
    return np.log(-values)


def _query_scale(layers: int) -> Derive:
    """Gemma scales queries by the width of a head, its largest model by that of an equal share."""

    def derive(settings: Mapping[str, Any], _: Mapping[str, Any]) -> Mapping[str, Any]:
        share = settings["embedding_length"] // settings["attention.head_count"]
        width = share if settings["block_count"] == layers else None
        return {"query_pre_attn_scalar": width or settings.get("attention.key_length", share)}

    return derive


def _falcon(settings: Mapping[str, Any], tensors: Mapping[str, Any]) -> Mapping[str, Any]:
    grouped = settings.get("attention.head_count_kv", 1) > 1
    norms = 2 if "blk.0.attn_norm_2.weight" in tensors else 1
    return {
        "multi_query": True,
        "new_decoder_architecture": grouped,
        "num_ln_in_parallel_attn": norms if grouped else None,
    }


def _head_scale(settings: Mapping[str, Any], _: Mapping[str, Any]) -> Mapping[str, Any]:
    """Granite's scale of attention, which llama.cpp takes from a head's width where none is set."""
    share = settings["embedding_length"] / settings["attention.head_count"]
    usual = settings.get("attention.key_length", share) ** -0.5
    return {"attention_multiplier": settings.get("attention.scale") or usual}


def _convolutions(settings: Mapping[str, Any], _: Mapping[str, Any]) -> Mapping[str, Any]:
    """LFM2 has a convolution in each layer without keys."""
    heads = settings["attention.head_count_kv"]
    per_layer = heads if isinstance(heads, list) else [heads] * settings["block_count"]
    return {
        "layer_types": ["full_attention" if n else "conv" for n in per_layer],
        "num_key_value_heads": max(per_layer),
    }


def _expansion(settings: Mapping[str, Any], _: Mapping[str, Any]) -> Mapping[str, Any]:
    return {"expand": settings["ssm.inner_size"] // settings["embedding_length"]}


def _parallel(_: Mapping[str, Any], tensors: Mapping[str, Any]) -> Mapping[str, Any]:
    return {"use_parallel_residual": "blk.0.ffn_norm.weight" not in tensors}


def _no_rotation(settings: Mapping[str, Any], _: Mapping[str, Any]) -> Mapping[str, Any]:
    """SmolLM3: every fourth layer has no rotary embedding."""
    layers = range(settings["block_count"])
    return {"no_rope_layers": [int((layer + 1) % 4 != 0) for layer in layers]}


_ROTARY: dict[str, Undo] = {
    "attn_q.": _interleaved("num_attention_heads"),
    "attn_k.": _interleaved("num_key_value_heads"),
}
_ATTENTION_BIAS = {"attention_bias": ("attn_q.bias", "attn_output.bias")}
_BIASES = {**_ATTENTION_BIAS, "mlp_bias": ("ffn_gate.bias", "ffn_up.bias", "ffn_down.bias")}
_GEMMA: dict[str, Undo] = {"norm.weight": _minus_one}

ARCHITECTURES: Mapping[str, Architecture] = {
    "llama": Architecture(
        model_type="llama",
        switches=_BIASES,
        undo=_ROTARY,
        variants={
            "expert_count": Architecture(model_type="mixtral", undo=_ROTARY, window_every=1),
            "attention.sliding_window": Architecture(
                model_type="mistral", undo=_ROTARY, window_every=1
            ),
        },
    ),
    "qwen2": Architecture(model_type="qwen2"),
    "qwen2moe": Architecture(
        model_type="qwen2_moe",
        fixed={"norm_topk_prob": False},
        undo={"ffn_gate_inp_shexp.": _axis(0)},
    ),
    "qwen3": Architecture(model_type="qwen3", switches=_ATTENTION_BIAS),
    "qwen3moe": Architecture(
        model_type="qwen3_moe", fixed={"norm_topk_prob": True}, switches=_ATTENTION_BIAS
    ),
    "gemma": Architecture(model_type="gemma", undo=_GEMMA),
    "gemma2": Architecture(
        model_type="gemma2",
        fixed={
            "attn_logit_softcapping": 50.0,
            "final_logit_softcapping": 30.0,
            "sliding_window": 4096,
        },
        derive=_query_scale(46),
        undo=_GEMMA,
        window_every=2,
    ),
    "gemma3": Architecture(
        model_type="gemma3_text",
        derive=_query_scale(62),
        undo=_GEMMA,
        window_every=6,
        window_base=10000.0,
    ),
    "phi2": Architecture(model_type="phi"),
    "phi3": Architecture(model_type="phi3", window_every=1),
    "falcon": Architecture(
        model_type="falcon",
        fixed={"parallel_attn": True, "alibi": False},
        switches={"bias": ("attn_qkv.bias",)},
        derive=_falcon,
        undo={"attn_qkv.": _grouped},
    ),
    "bloom": Architecture(
        model_type="bloom", undo={"attn_qkv.": _grouped}, ignored=frozenset({"context_length"})
    ),
    "stablelm": Architecture(
        model_type="stablelm",
        switches={"use_qkv_bias": ("attn_q.bias",), "qk_layernorm": ("attn_q_norm.weight",)},
        derive=_parallel,
    ),
    "gpt2": Architecture(
        model_type="gpt2",
        undo=dict.fromkeys(
            ("attn_qkv.weight", "attn_output.weight", "ffn_up.weight", "ffn_down.weight"),
            _transposed,
        ),
    ),
    "gptneox": Architecture(
        model_type="gpt_neox",
        undo={"attn_qkv.": _grouped},
        required=("use_parallel_residual",),
    ),
    "starcoder2": Architecture(
        model_type="starcoder2", switches={"use_bias": ("attn_q.bias",)}, window_every=1
    ),
    "nemotron": Architecture(model_type="nemotron", switches=_BIASES, undo=_GEMMA),
    "mamba": Architecture(
        model_type="mamba",
        derive=_expansion,
        undo={"ssm_conv1d.weight": _axis(1), "ssm_a": _logarithm},
        neutral={
            "attention.head_count": (0,),
            "feed_forward_length": (0,),
            "ssm.dt_b_c_rms": (False,),
        },
        ignored=frozenset({"context_length"}),
    ),
    "granite": Architecture(
        model_type="granite",
        switches=_BIASES,
        derive=_head_scale,
        undo=_ROTARY,
        required=("logit_scale",),
        neutral={"rope.scaling.finetuned": (True,)},
    ),
    "minicpm": Architecture(  # Granite under another name
        model_type="granite",
        switches=_BIASES,
        derive=_head_scale,
        undo=_ROTARY,
        required=("embedding_scale", "residual_scale", "logit_scale"),  # else llama.cpp guesses
    ),
    "command-r": Architecture(
        model_type="cohere",
        fixed={"logit_scale": 1.0},
        switches={**_ATTENTION_BIAS, "use_qk_norm": ("attn_q_norm.weight",)},
    ),
    "cohere2": Architecture(model_type="cohere2", switches=_ATTENTION_BIAS, window_every=4),
    "olmo2": Architecture(
        model_type="olmo2",
        switches=_ATTENTION_BIAS,
        variants={
            "attention.sliding_window": Architecture(
                model_type="olmo3", switches=_ATTENTION_BIAS, window_every=4
            )
        },
    ),
    "smollm3": Architecture(
        model_type="smollm3", switches=_BIASES, derive=_no_rotation, undo=_ROTARY
    ),
    "lfm2": Architecture(
        model_type="lfm2",
        fixed={"block_auto_adjust_ff_dim": False},
        switches={"conv_bias": ("shortconv.in_proj.bias",)},
        derive=_convolutions,
        undo={"shortconv.conv.weight": _axis(1)},
    ),
    "gpt-oss": Architecture(
        model_type="gpt_oss",
        switches=_ATTENTION_BIAS,
        undo={"ffn_down_exps.weight": _swapped},
        window_every=2,
        yarn={"truncate": False},
        join=_alternating,
    ),
}
