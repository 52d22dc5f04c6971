"""Rotary embeddings: how far each pair of features turns from token to token, and by what factor.

llama.cpp turns pair i at position p by p · base^(-2i/d) / (factor_i · factor), blended by YaRN's
ramp, and multiplies what it turned by an attention factor (`ggml_rope_ext`, `llama-context.cpp`).
"""

import math
from collections.abc import Mapping
from typing import Any

from robustness.checkpoint.gguf.header import GgufSummary, read_gguf_tensor
from robustness.checkpoint.gguf.settings import Settings
from robustness.errors import CheckpointError

FREQUENCY_FACTORS = ("rope_freqs.weight", "rope_factors_short.weight", "rope_factors_long.weight")
"""The tensors that are settings: for every length of text, for short and for long texts."""


def rope_parameters(settings: Settings, summary: GgufSummary, defaults: Any) -> dict[str, Any]:
    """The ``rope_parameters`` of a config.

    Raises:
        CheckpointError: transformers cannot turn like that.
    """
    base = settings.number("rope.freq_base", 10000.0)
    plain = {"rope_type": "default", "rope_theta": float(base)}
    usual: Mapping[str, Any] = defaults.rope_parameters or {}
    width, turned = head_width(settings), settings.number("rope.dimension_count", whole=True)
    if (turned or width) != width or "partial_rotary_factor" in usual:
        plain["partial_rotary_factor"] = (turned or width) / width
    scaled = {**plain, **_scaling(settings, summary, turned or width)}
    window_base = settings.architecture.window_base or base
    window_base = settings.number("rope.freq_base_swa", window_base)
    if isinstance(usual.get("sliding_attention"), Mapping):
        windowed = {**plain, "rope_theta": float(window_base)}
        return {"full_attention": scaled, "sliding_attention": windowed}
    if window_base != base:
        raise settings.refused("rope.freq_base_swa", "but transformers knows one for all layers")
    return scaled


def head_width(settings: Settings) -> int:
    """The width of a head's keys."""
    share = settings.values["embedding_length"] // settings.values["attention.head_count"]
    width: int = settings.values.get("attention.key_length", share)
    return width


def _scaling(settings: Settings, summary: GgufSummary, turned: int) -> dict[str, Any]:
    """What stretches the turns of the layers without a window."""
    kind = settings.take("rope.scaling.type", "linear")
    factor = settings.number("rope.scaling.factor") or settings.number("rope.scale_linear") or 1.0
    length = settings.number("rope.scaling.original_context_length", whole=True)
    length = length or settings.values["context_length"]
    factors = _factors(settings, summary, turned)
    if factors and kind != "yarn":
        # transformers' name for any factors; two lists, for texts within that length and beyond.
        scale = 1.0 if kind == "none" else factor
        numbers = [[scale * number for number in one] for one in factors]
        return {
            "rope_type": "longrope",
            "short_factor": numbers[0],
            "long_factor": numbers[-1],
            "factor": 1.0,
            "original_max_position_embeddings": length,
            "attention_factor": settings.number("rope.scaling.attn_factor", 1.0),
        }
    if kind == "none" or (kind == "linear" and factor == 1):
        return {}
    if kind == "linear":
        return {"rope_type": "linear", "factor": factor}
    if kind != "yarn" or factors:
        raise settings.refused("rope.scaling.type", "which does not fit the rest of the file")
    attention = settings.number("rope.scaling.yarn_attn_factor")
    attention = attention or (0.1 * math.log(factor) + 1 if factor > 1 else 1.0)
    return {
        "rope_type": "yarn",
        "factor": factor,
        "original_max_position_embeddings": length,
        "attention_factor": attention * settings.number("rope.scaling.attn_factor", 1.0),
        "beta_fast": settings.number("rope.scaling.yarn_beta_fast", 32.0),
        "beta_slow": settings.number("rope.scaling.yarn_beta_slow", 1.0),
        **settings.architecture.yarn,
    }


def _factors(settings: Settings, summary: GgufSummary, turned: int) -> list[list[float]]:
    """What the frequencies are divided by: once, for short and long texts, or not at all."""
    stored = [summary.tensors.get(name) for name in FREQUENCY_FACTORS]
    factors = [
        [float(str(number)) for number in read_gguf_tensor(tensor).ravel()]
        for tensor in stored
        if tensor is not None
    ]
    if any(len(numbers) != turned // 2 or not all(map(_usable, numbers)) for numbers in factors):
        raise CheckpointError(
            f"{settings.what} has unusable frequency factors for {turned} features: convert the "
            "original model again with a current llama.cpp."
        )
    return factors


def _usable(number: float) -> bool:
    return math.isfinite(number) and number > 0
