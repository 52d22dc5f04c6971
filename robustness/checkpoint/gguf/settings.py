"""The settings under the prefix of a GGUF file's architecture, and which of them were used."""

import math
from collections.abc import Mapping
from typing import Any

from robustness.checkpoint.gguf.architectures import ARCHITECTURES, Architecture
from robustness.checkpoint.gguf.header import SAFETENSORS_INSTEAD, GgufSummary
from robustness.errors import CheckpointError

_NEUTRAL: Mapping[str, tuple[Any, ...]] = {
    "attention.causal": (True,),
    "attention.clamp_kqv": (0,),
    "attention.max_alibi_bias": (0,),
    "attention.sliding_window": (0,),
    "expert_count": (0,),
    "expert_gating_func": (0, 1),  # softmax
    "expert_group_count": (0, 1),
    "expert_group_used_count": (0, 1),
    "expert_shared_count": (0,),
    "expert_used_count": (0,),
    "expert_weights_scale": (0, 1),
    "nextn_predict_layers": (0,),
    "rope.scaling.finetuned": (True, False),  # only some architectures read it
    "rope.scaling.yarn_ext_factor": (1,),
}
"""Values with which a setting changes nothing."""

_IGNORED = frozenset({"vocab_size", "tensor_data_layout", "pooling_type"})
"""Settings without effect on a forward pass: the embedding says how many tokens there are, the
layout's name is a comment, and pooling is for other tasks than predicting tokens."""


class Settings:
    """The settings under the architecture's prefix; remembers which were used.

    Attributes:
        what: The file, for messages.
        architecture: The architecture's entry.
        values: By key, without the prefix.
    """

    def __init__(self, summary: GgufSummary, what: str) -> None:
        self.what, self.name = what, summary.architecture
        if self.name not in ARCHITECTURES:
            raise CheckpointError(
                f"{what} is of llama.cpp's architecture {self.name!r}, which cannot be read from "
                f"GGUF: {SAFETENSORS_INSTEAD}."
            )
        prefix = f"{self.name}."
        self.values = {
            key.removeprefix(prefix): _one_value(key.removeprefix(prefix), value)
            for key, value in summary.settings.items()
            if key.startswith(prefix)
        }
        self.architecture: Architecture = ARCHITECTURES[self.name]
        for key, variant in self.architecture.variants.items():
            if self.values.get(key):
                self.architecture = variant
                break
        self.used = {*_IGNORED, *self.architecture.ignored}

    def refused(self, key: str, why: str) -> CheckpointError:
        """The error for a setting that cannot be obeyed."""
        name, value = f"{self.name}.{key}"[:200], repr(self.values[key])[:100]
        return CheckpointError(f"{self.what} sets {name} to {value}, {why}: {SAFETENSORS_INSTEAD}.")

    def is_neutral(self, key: str) -> bool:
        """Whether a setting has a value with which it changes nothing."""
        known = self.architecture.neutral.get(key, _NEUTRAL.get(key, ()))
        return self.values[key] in known

    def take(self, key: str, default: Any = None) -> Any:
        """A setting's value, which counts as used from now on."""
        self.used.add(key)
        return self.values.get(key, default)

    def number(self, key: str, default: Any = None, *, whole: bool = False) -> Any:
        """A setting that must be a finite number, not negative, and not absurd."""
        value = self.take(key, default)
        if value is None or value is default:
            return value
        kinds = (int,) if whole else (int, float)
        if type(value) not in kinds or not 0 <= value < 2**40 or not math.isfinite(value):
            raise self.refused(key, "which is no such number")
        return value

    def require(self, *keys: str) -> None:
        """Refuse a file that lacks one of these settings, or sets it to 0."""
        for key in keys:
            value = self.values.get(key)
            if not isinstance(value, bool) and not self.number(key):
                raise CheckpointError(
                    f"{self.what} lacks the setting {self.name}.{key}: convert the original model "
                    "again with a current llama.cpp."
                )

    def refuse_unused(self) -> None:
        """Refuse a file with a setting that was neither used nor is without effect."""
        for key in self.values:
            if key not in self.used and not self.is_neutral(key):
                what = f"which transformers' model type {self.architecture.model_type!r} cannot do"
                raise self.refused(key, what)


def _one_value(key: str, value: Any) -> Any:
    """The value of a list in which all are the same, but for those that may have many."""
    if isinstance(value, list) and value and not key.endswith("pattern"):
        return value[0] if value.count(value[0]) == len(value) else value
    return value
