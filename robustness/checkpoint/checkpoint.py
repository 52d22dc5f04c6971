"""A checkpoint: weights, tokenizer and config at one resolved revision, ready to be loaded."""

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robustness.checkpoint.architecture import Architecture, Scoring, model_class
from robustness.checkpoint.conversions.float32 import float32_folder
from robustness.checkpoint.loading import loading_errors, require_memory
from robustness.checkpoint.reference import Kind
from robustness.checkpoint.skeleton import NameMap, build_skeleton, map_names
from robustness.checkpoint.tensor_values import non_finite_tensors, read_values
from robustness.checkpoint.tokenization import load_tokenizer, tokenizer_files
from robustness.checkpoint.weights import TensorInfo, float32_bytes, read_tensors
from robustness.errors import CheckpointError
from robustness.runtime.libraries import library_versions
from robustness.store.context import Context
from robustness.store.files import stamp
from robustness.store.store import Record

_SCHEMA = 2  # of to_dict
_FOLDERS = ("folder", "tokenizer_folder", "cache")
Progress = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A resolved checkpoint. Plain data; what is heavy is loaded by its methods.

    Attributes:
        reference: The text the user gave.
        label: Short name for test ids, only ``[A-Za-z0-9._-]``.
        source: Where it came from.
        revision: The Hub's commit hash, or ``sha256:`` and 12 hex digits of the content.
        folder: Where config.json and the safetensors files lie.
        tokenizer_folder: Where the tokenizer's files lie: there, unless another was asked for.
        weights_hash: sha256 over the names and contents of the safetensors files.
        tokenizer_hash: sha256 over the names and contents of the tokenizer's files.
        config_hash: sha256 of config.json: with other settings the same weights compute
            something else.
        stamp: Sizes and times of all these files, as a digest: see :meth:`require_unchanged`.
        note: What the reader of a report should know about how it was resolved.
        architecture: Name of the transformers class.
        scoring: what the model was trained for; see :mod:`robustness.checkpoint.architecture`.
        n_parameters: Number of parameters, tied ones once.
        vocab_size: Number of tokens the head chooses from.
        max_positions: Longest input in tokens, None where the model sets no limit.
        cache: Directory that keeps converted weights and remembered hashes.
    """

    reference: str
    label: str
    source: Kind
    revision: str
    folder: Path
    tokenizer_folder: Path
    weights_hash: str
    tokenizer_hash: str
    config_hash: str
    stamp: str
    note: str | None
    architecture: str
    scoring: Scoring
    n_parameters: int
    vocab_size: int
    max_positions: int | None
    cache: Path

    @property
    def identity(self) -> dict[str, str]:
        """What it is, by content."""
        return {
            "weights": self.weights_hash,
            "config": self.config_hash,
            "tokenizer": self.tokenizer_hash,
            "architecture": self.architecture,
        }

    def load_config(self) -> Any:
        """The transformers config, without anything in it that could fetch or run code."""
        from robustness.checkpoint.config import load_config

        return load_config(self.folder, what=self.reference)

    def load_tokenizer(self) -> Any:
        """The tokenizer; resolving has verified that it fits the model."""
        return load_tokenizer(self.tokenizer_folder, what=self.reference)

    def skeleton(self) -> Any:
        """The model without weights: it runs, its values mean nothing, it takes megabytes.

        Returns:
            An ``nn.Module`` on the CPU in eval mode; buffers are real, tied parameters tied.
        """
        cls = model_class(self.architecture)
        return build_skeleton(cls, self.load_config(), what=self.reference)

    def load_model(self, *, device: str = "cpu", progress: Progress | None = None) -> Any:
        """Load the model in float32 and eval mode, every weight of it from the files.

        The weights are memory-mapped, so that processes on one machine share one copy of them;
        files in another precision are converted to float32 in the cache first, once.

        Returns:
            An ``nn.Module`` none of whose parameters requires gradients.

        Raises:
            CheckpointError: It does not fit into memory, or weights are missing or misshapen.
        """
        from robustness.checkpoint.verification import load_verified

        tensors = read_tensors(self.folder)
        require_memory(float32_bytes(tensors), what=f"Loading {self.reference}")
        config, folder = self.load_config(), self.folder
        if getattr(config, "quantization_config", None) is None:
            folder = float32_folder(
                folder,
                tensors,
                weights_hash=self.weights_hash,
                cache=self.cache,
                progress=progress,
            )
        architecture = Architecture(
            name=self.architecture, scoring=self.scoring, declared=self.architecture
        )
        cls = model_class(self.architecture)
        model, _ = load_verified(
            cls, config, folder, architecture=architecture, what=self.reference
        )
        with loading_errors(f"Moving {self.reference} to {device}"):
            return model.to(device)

    def tensor(self, name: str) -> NDArray[np.floating[Any]]:
        """One parameter's values by its name in the model, read from the files alone.

        Args:
            name: As in ``model.named_parameters()``, also of a tied parameter.

        Returns:
            A float32 array (float64 where the file holds float64) of the parameter's shape.

        Raises:
            CheckpointError: The model has no such parameter, or it is not floating-point.
        """
        stored = None if self._names is None else self._names.stored.get(name)
        if stored is not None:
            return read_values(self._tensors[stored])
        value = self._loaded.get(name)
        if value is None:
            raise CheckpointError(f"{self.architecture} has no parameter {name!r}.")
        return _as_numpy(value, name)

    @cached_property
    def _tensors(self) -> Mapping[str, TensorInfo]:
        return read_tensors(self.folder)

    @cached_property
    def _names(self) -> NameMap | None:
        return map_names(self.skeleton(), self._tensors)

    @cached_property
    def _loaded(self) -> Mapping[str, Any]:
        """All tensors by name, for the few that transformers computes while it loads."""
        state: Mapping[str, Any] = self.load_model().state_dict()
        return state

    def require_unchanged(self) -> None:
        """Make sure that the files are still those whose hashes identify the checkpoint.

        A training run may write its folder again while it is vetted; what is measured then must
        not be kept under the old hashes.

        Raises:
            CheckpointError: A file was written, replaced or removed since it was resolved.
        """
        weights = {info.file for info in self._tensors.values()}
        try:
            tokenizer = tokenizer_files(self.tokenizer_folder)
            now = stamp((*weights, *tokenizer, self.folder / "config.json"))
        except OSError:
            now = ""
        if now != self.stamp:
            raise CheckpointError(
                f"{self.reference} changed while it was vetted: nothing measured since is kept; "
                "vet a folder that nobody writes to."
            )

    def non_finite_tensors(self, context: Context) -> tuple[str, ...]:
        """Names of the floating-point tensors that hold NaN or infinity, remembered in the store.

        Raises:
            CheckpointError: Its files changed meanwhile.
        """

        def look(_: object) -> Record:
            names = non_finite_tensors(self.folder)
            self.require_unchanged()
            return {"names": names}

        store = context.store({"weights": self.weights_hash})
        key = {"non_finite_tensors": 1, "versions": library_versions()}
        (record,) = store.obtain([key], look)
        return tuple(record["names"])

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types; travels to other processes and into reports."""
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        values |= {name: str(values[name]) for name in _FOLDERS}
        return {"schema": _SCHEMA, **values}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "Checkpoint":
        """The checkpoint that :meth:`to_dict` described, without resolving it again.

        Raises:
            CheckpointError: The data was written by another version of this package.
        """
        values = dict(data)
        if values.pop("schema", None) != _SCHEMA:
            raise CheckpointError(
                "The checkpoint was described by another version of this package."
            )
        return cls(**{**values, **{name: Path(values[name]) for name in _FOLDERS}})


def _as_numpy(value: Any, name: str) -> NDArray[np.floating[Any]]:
    import torch

    if not value.is_floating_point():
        raise CheckpointError(
            f"The tensor {name!r} is quantised ({value.dtype}): its values are codes."
        )
    wide = value if value.dtype == torch.float64 else value.to(torch.float32)
    array: NDArray[np.floating[Any]] = wide.detach().numpy().copy()
    return array
