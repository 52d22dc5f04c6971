"""A checkpoint: weights, tokenizer and config at one resolved revision, verified, ready to load."""

import dataclasses
import hashlib
import importlib.metadata
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from robustness.checkpoint.architecture import Architecture, Scoring, model_class
from robustness.checkpoint.float32 import float32_folder
from robustness.checkpoint.loading import loading_errors, require_memory
from robustness.checkpoint.reference import CheckpointRef, Kind
from robustness.checkpoint.skeleton import NameMap, build_skeleton, map_names
from robustness.checkpoint.tensor_values import read_values
from robustness.checkpoint.tokenization import load_tokenizer, tokenizer_files
from robustness.checkpoint.verification import Facts, verify
from robustness.checkpoint.weights import TensorInfo, find_weights, float32_bytes, read_tensors
from robustness.errors import CheckpointError
from robustness.store.files import linked_elsewhere, recall, remember, stamp
from robustness.store.hashing import file_sha256, files_hash

_SCHEMA = 1  # of to_dict, and of remembered facts
Progress = Callable[[str], None]

if TYPE_CHECKING:
    from robustness.checkpoint.task_heads import KindChoice


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A resolved checkpoint. Plain data; what is heavy is loaded by its methods.

    Attributes:
        reference: The text the user gave.
        label: Short name for test ids, only ``[A-Za-z0-9._-]``.
        source: Where it came from.
        revision: The Hub's commit hash, or ``sha256:`` and 12 hex digits of the content.
        folder: Where config.json, the tokenizer's files and the safetensors files lie.
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
        from robustness.checkpoint.verification import load_config

        return load_config(self.folder, what=self.reference)

    def load_tokenizer(self) -> Any:
        """The tokenizer; resolving has verified that it fits the model."""
        return load_tokenizer(self.folder, what=self.reference)

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

        Args:
            device: Where to put it.
            progress: Told in a short phrase when a long step starts.

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
        known = Architecture(
            name=self.architecture, scoring=self.scoring, declared=self.architecture
        )
        cls = model_class(self.architecture)
        model = load_verified(cls, config, folder, architecture=known, what=self.reference)
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
            now = stamp((*weights, *tokenizer_files(self.folder), self.folder / "config.json"))
        except OSError:
            now = ""
        if now != self.stamp:
            raise CheckpointError(
                f"{self.reference} changed while it was vetted: nothing measured since is kept; "
                "vet a folder that nobody writes to."
            )

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types; travels to other processes and into reports."""
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        values["folder"], values["cache"] = str(self.folder), str(self.cache)
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
        values["folder"], values["cache"] = Path(values["folder"]), Path(values["cache"])
        return cls(**values)


def resolve(
    reference: str,
    *,
    cache: Path,
    progress: Progress | None = None,
    check_memory: bool = True,
    task: "KindChoice | None" = None,
) -> Checkpoint:
    """Find a checkpoint, download or convert it if necessary, and verify it from its headers.

    What was verified once is remembered by content: resolving it again imports no torch.

    Args:
        reference: A Hub id, a folder, a ``.gguf`` file, or ``pkg:package/path``.
        cache: Directory for converted weights and remembered hashes.
        progress: Told in a short phrase when a long step starts.
        check_memory: Refuse what would not fit into free memory; weight-only work needs none.
        task: The kind of downstream task it is to answer, instead of being a language model.

    Raises:
        TaskError: It has no head for that task.
        NoLanguageModel: It is complete, but a task is all that it could be asked.
        CheckpointError: It cannot be found or reached, or is damaged, incomplete, not a language
            model, or too large.
    """
    ref = CheckpointRef.parse(reference)
    cache = cache.absolute()
    folder, revision, notes = locate(ref, cache, progress)
    config_file = folder / "config.json"
    refuse_adapters(folder, reference)
    if not config_file.is_file():
        find_weights(folder)  # has something more helpful to say where there is nothing at all
        raise CheckpointError(f"{folder} has no config.json: it is not a complete checkpoint.")

    tensors = read_tensors(folder)
    if check_memory:
        require_memory(float32_bytes(tensors), what=f"Loading {reference}")
    tokenizer = tokenizer_files(folder)
    weights = tuple(sorted({info.file for info in tensors.values()}))
    before = stamp((*weights, *tokenizer, config_file))
    digests = {
        file: file_sha256(file, memory=cache / "hashes", progress=progress)
        for file in (*weights, *tokenizer, config_file)
    }
    weights_hash = files_hash(weights, digests)
    tokenizer_hash = files_hash(tokenizer, digests)
    config_hash = digests[config_file]
    content = hashlib.sha256(f"{weights_hash} {config_hash} {tokenizer_hash}".encode()).hexdigest()

    remembered = cache / "checkpoints" / f"{_facts_key(content, task)}.json"
    facts = _recall_facts(remembered)
    if facts is None:
        with loading_errors(reference):  # settings of any type and size meet other people's code
            if task is None:
                facts = verify(folder, tensors, what=reference, progress=progress)
            else:
                from robustness.checkpoint.task_heads import verify_task

                facts = verify_task(folder, tensors, task, what=reference, progress=progress)
        with suppress(OSError):  # what cannot be remembered is found out again
            remember(remembered, dataclasses.asdict(facts))
    elsewhere = _elsewhere(folder, (*weights, *tokenizer, config_file))
    notes = [note for note in (ref.note, *notes, facts.note, elsewhere) if note is not None]
    return Checkpoint(
        reference=reference,
        label=ref.label,
        source=ref.kind,
        revision=revision or f"sha256:{content[:12]}",
        folder=folder,
        weights_hash=weights_hash,
        tokenizer_hash=tokenizer_hash,
        config_hash=config_hash,
        stamp=before,
        note="; ".join(notes) or None,
        architecture=facts.architecture,
        scoring=facts.scoring,
        n_parameters=facts.n_parameters,
        vocab_size=facts.vocab_size,
        max_positions=facts.max_positions,
        cache=cache,
    )


def locate(
    ref: CheckpointRef, cache: Path, progress: Progress | None
) -> tuple[Path, str | None, list[str]]:
    """The folder, its revision where the source gives one, and notes.

    Raises:
        CheckpointError: It cannot be fetched or converted.
    """
    if ref.kind == "hub":
        from robustness.checkpoint.hub import download

        return download(ref, progress=progress)
    path = Path(ref.target)
    if path.is_dir():
        return path, None, []
    from robustness.checkpoint.gguf_conversion import convert_gguf

    folder, digest = convert_gguf(path, cache=cache, progress=progress)
    return folder, f"sha256:{digest[:12]}", []


def _elsewhere(folder: Path, files: Iterable[Path]) -> str | None:
    """A note on links out of the folder: what is vetted then is not what the folder holds."""
    links = linked_elsewhere(folder, files)
    if not links:
        return None
    more = f" and {len(links) - 1} more files" if len(links) > 1 else ""
    return f"{links[0].name}{more} of the folder are links to elsewhere ({links[0].resolve()})"


def refuse_adapters(folder: Path, reference: str) -> None:
    """Refuse what is only a part of a model.

    Raises:
        CheckpointError: It is a PEFT adapter.
    """
    if (folder / "adapter_config.json").is_file():
        raise CheckpointError(
            f"{reference} is a PEFT adapter, not a whole model: merge it into its base model with "
            "merge_and_unload(), save the result together with the tokenizer, and give that folder."
        )


def _facts_key(content: str, task: str | None) -> str:
    """Content and everything that decides how it is understood."""
    packages = ("torch", "transformers", "tokenizers")
    versions = [f"{name}={importlib.metadata.version(name)}" for name in packages]
    asked = [] if task is None else [f"task={task}"]
    return hashlib.sha256(
        " ".join([str(_SCHEMA), content, *versions, *asked]).encode()
    ).hexdigest()[:32]


def _recall_facts(file: Path) -> Facts | None:
    facts = recall(file)
    return None if facts is None else Facts(**facts)


def _as_numpy(value: Any, name: str) -> NDArray[np.floating[Any]]:
    import torch

    if not value.is_floating_point():
        raise CheckpointError(
            f"The tensor {name!r} is quantised ({value.dtype}): its values are codes."
        )
    wide = value if value.dtype == torch.float64 else value.to(torch.float32)
    array: NDArray[np.floating[Any]] = wide.detach().numpy().copy()
    return array
