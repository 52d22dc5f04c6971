"""The transformers model that a GGUF file describes, and its parameters read from the file.

What llama.cpp calls a parameter is found in gguf's own table of names; every tensor of the file has
a place in the model, or the file is refused.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robustness.checkpoint.architecture import candidates, model_class
from robustness.checkpoint.gguf.architectures import Architecture
from robustness.checkpoint.gguf.config import gguf_config
from robustness.checkpoint.gguf.header import SAFETENSORS_INSTEAD, GgufSummary, read_gguf_tensor
from robustness.checkpoint.gguf.rope import FREQUENCY_FACTORS
from robustness.checkpoint.gguf.settings import Settings
from robustness.checkpoint.loading import quiet
from robustness.checkpoint.skeleton import build_skeleton
from robustness.errors import CheckpointError

_EXPERTS = re.compile(r".*\.(\d+)\..*experts\.(gate_up|down)_proj(_bias)?")
_SINKS = re.compile(r".*\.(\d+)\..*\.sinks")


@dataclass(frozen=True, kw_only=True)
class GgufModel:
    """A model whose weights are in a GGUF file.

    Attributes:
        summary: What the file's header says.
        entry: Its architecture.
        skeleton: The model without weights.
        sources: By parameter, the tensors it is made of; a bias that the file lacks, of none.
    """

    summary: GgufSummary
    entry: Architecture
    skeleton: Any
    sources: Mapping[str, tuple[str, ...]]

    @classmethod
    def of(cls, file: Path, summary: GgufSummary) -> "GgufModel":
        """The model of a file whose header was read.

        Raises:
            CheckpointError: Settings or tensors are unknown, missing or contradict each other.
        """
        what = str(file)
        with quiet():
            config = gguf_config(summary, what=what)
            config.architectures = [candidates(config, what=what)[0].name]
            skeleton = build_skeleton(model_class(config.architectures[0]), config, what=what)
        sources = dict(_sources(skeleton, summary, what))
        used = {name for names in sources.values() for name in names}
        unused = sorted(summary.tensors.keys() - used - {*FREQUENCY_FACTORS})
        if "output.weight" in unused and config.tie_word_embeddings:
            unused.remove("output.weight")
        if unused:
            raise CheckpointError(
                f"{file} holds {len(unused)} tensors that transformers' {type(skeleton).__name__} "
                f"has no place for ({', '.join(unused[:3])}): {SAFETENSORS_INSTEAD}."
            )
        settings = Settings(summary, what)
        _require_rotation(skeleton, settings)
        return cls(summary=summary, entry=settings.architecture, skeleton=skeleton, sources=sources)

    def shape(self, name: str) -> tuple[int, ...]:
        """A parameter's shape, by its name in the model."""
        return tuple(self.skeleton.get_parameter(name).shape)

    def tensor(self, name: str) -> NDArray[np.float32]:
        """A parameter's values, by its name in the model.

        Raises:
            CheckpointError: They cannot be read, or have another shape than the settings say.
        """
        shape = self.shape(name)
        parts = [self._undone(stored) for stored in self.sources[name]]
        if not parts:
            return np.zeros(shape, np.float32)
        values = parts[0] if len(parts) == 1 else self.entry.join(*parts)
        if values.shape != shape:
            raise CheckpointError(
                f"{self.sources[name][0]} of the GGUF file has the shape {values.shape} where its "
                f"settings ask for {shape}: it is damaged."
            )
        return np.ascontiguousarray(values, dtype=np.float32)

    def _undone(self, stored: str) -> NDArray[np.float32]:
        values = read_gguf_tensor(self.summary.tensors[stored])
        for part, undo in self.entry.undo.items():
            if part in stored:
                values = undo(values, self.skeleton.config)
        return values


def _sources(
    skeleton: Any, summary: GgufSummary, what: str
) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Each parameter, and the names of the tensors that it is made of."""
    import gguf

    numbers = {name: number for number, name in gguf.MODEL_ARCH_NAMES.items()}
    table = gguf.get_tensor_name_map(
        numbers[summary.architecture], skeleton.config.num_hidden_layers
    )
    kinds = {re.sub(r"\.\d+\.", ".#.", name) for name in summary.tensors}
    missing = []
    for name, _ in skeleton.named_parameters():
        stored = _stored_names(name, table, skeleton.base_model_prefix)
        if stored and all(one in summary.tensors for one in stored):
            yield name, stored
        elif (
            name.endswith("bias")
            and stored
            and not any(re.sub(r"\.\d+\.", ".#.", one) in kinds for one in stored)
        ):
            yield name, ()  # no layer has it: nothing is added
        else:
            missing.append(name)
    if missing:
        raise CheckpointError(
            f"{what} lacks weights that {type(skeleton).__name__} needs "
            f"({', '.join(missing[:5])}): convert the original model again with a current "
            "llama.cpp."
        )


def _stored_names(name: str, table: Any, prefix: str) -> tuple[str, ...]:
    """What llama.cpp calls a parameter; several where it splits it."""
    if match := _EXPERTS.fullmatch(name):
        kinds = ("gate", "up") if match[2] == "gate_up" else ("down",)
        ending = "bias" if match[3] else "weight"
        return tuple(f"blk.{match[1]}.ffn_{kind}_exps.{ending}" for kind in kinds)
    if match := _SINKS.fullmatch(name):
        return (f"blk.{match[1]}.attn_sinks.weight",)
    for known in (name, name.removeprefix(f"{prefix}.")):
        stored = table.get_name(known, try_suffixes=(".weight", ".bias"))
        if stored is not None:
            return (stored,)
    return ()


def _require_rotation(skeleton: Any, settings: Settings) -> None:
    """Refuse a class that turns more or fewer features than the file says."""
    turned = settings.values.get("rope.dimension_count")
    for name, frequencies in skeleton.named_buffers():
        if name.endswith("inv_freq") and turned not in (None, 2 * len(frequencies)):
            raise settings.refused(
                "rope.dimension_count", f"but transformers turns {2 * len(frequencies)} features"
            )
