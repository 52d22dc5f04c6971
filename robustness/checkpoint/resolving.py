"""From a reference to a checkpoint: found, downloaded or converted, hashed, and verified.

What was verified once is remembered by content: resolving it again imports no torch.
"""

import dataclasses
import hashlib
import importlib.metadata
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from robustness.checkpoint.checkpoint import Checkpoint
from robustness.checkpoint.loading import loading_errors, require_memory
from robustness.checkpoint.reference import CheckpointRef
from robustness.checkpoint.tokenization import tokenizer_files
from robustness.checkpoint.verification import Facts, verify
from robustness.checkpoint.weights import (
    INDEX_FILE,
    SINGLE_FILE,
    TensorInfo,
    find_weights,
    float32_bytes,
    read_tensors,
)
from robustness.errors import CheckpointError
from robustness.store.files import linked_elsewhere, recall, remember, stamp
from robustness.store.hashing import file_sha256, files_hash

if TYPE_CHECKING:
    from robustness.checkpoint.task_heads import KindChoice

FACTS = 1
"""Version of what is remembered of a verified checkpoint."""

Progress = Callable[[str], None]


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
    folder, revision, located = locate(ref, cache, progress)
    files = _Files.of(folder, reference)
    if check_memory:
        require_memory(float32_bytes(files.tensors), what=f"Loading {reference}")
    before = stamp(files.all)
    hashes = files.hashes(cache, progress)
    content = hashlib.sha256(" ".join(hashes.values()).encode()).hexdigest()
    facts = _facts(files, content, reference, cache, progress, task)
    adapter = adapter_notes(folder, reference)
    notes = [ref.note, *located, *adapter, facts.note, _elsewhere(folder, files.all)]
    return Checkpoint(
        reference=reference,
        label=ref.label,
        source=ref.kind,
        revision=revision or f"sha256:{content[:12]}",
        folder=folder,
        **hashes,
        stamp=before,
        note="; ".join(note for note in notes if note is not None) or None,
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
    path, revision, notes = fetch(ref, progress)
    if path.is_dir():
        return path, revision, notes
    from robustness.checkpoint.gguf.conversion import convert_gguf

    folder, digest = convert_gguf(path, cache=cache, progress=progress)
    return folder, revision or f"sha256:{digest[:12]}", notes


def fetch(ref: CheckpointRef, progress: Progress | None) -> tuple[Path, str | None, list[str]]:
    """The folder or GGUF file on this machine, of a Hub checkpoint with its commit, and notes.

    Raises:
        CheckpointError: It cannot be fetched.
    """
    if ref.kind != "hub":
        return Path(ref.target), None, []
    from robustness.checkpoint.hub import download

    return download(ref, progress=progress)


@dataclass(frozen=True, kw_only=True)
class _Files:
    """The files of a checkpoint's folder that decide what it is."""

    folder: Path
    tensors: Mapping[str, TensorInfo]
    weights: tuple[Path, ...]
    tokenizer: tuple[Path, ...]
    config: Path

    @classmethod
    def of(cls, folder: Path, reference: str) -> "_Files":
        config = folder / "config.json"
        adapter_notes(folder, reference)
        if not config.is_file():
            find_weights(folder)  # has something more helpful to say where there is nothing at all
            raise CheckpointError(f"{folder} has no config.json: it is not a complete checkpoint.")
        tensors = read_tensors(folder)
        return cls(
            folder=folder,
            tensors=tensors,
            weights=tuple(sorted({info.file for info in tensors.values()})),
            tokenizer=tokenizer_files(folder),
            config=config,
        )

    @property
    def all(self) -> tuple[Path, ...]:
        return (*self.weights, *self.tokenizer, self.config)

    def hashes(self, cache: Path, progress: Progress | None) -> dict[str, str]:
        """Their content hashes, by the names that a checkpoint has for them."""
        digests = {
            file: file_sha256(file, memory=cache / "hashes", progress=progress) for file in self.all
        }
        return {
            "weights_hash": files_hash(self.weights, digests),
            "config_hash": digests[self.config],
            "tokenizer_hash": files_hash(self.tokenizer, digests),
        }


def _facts(
    files: _Files,
    content: str,
    reference: str,
    cache: Path,
    progress: Progress | None,
    task: "KindChoice | None",
) -> Facts:
    """What a checkpoint turns out to be, remembered by content."""
    file = cache / "checkpoints" / f"{_facts_key(content, task)}.json"
    remembered = recall(file)
    if remembered is not None:
        return Facts(**remembered)
    folder, tensors = files.folder, files.tensors
    with loading_errors(reference):  # settings of any type and size meet other people's code
        if task is None:
            facts = verify(folder, tensors, what=reference, progress=progress)
        else:
            from robustness.checkpoint.task_heads import verify_task

            facts = verify_task(folder, tensors, task, what=reference, progress=progress)
    with suppress(OSError):  # what cannot be remembered is found out again
        remember(file, dataclasses.asdict(facts))
    return facts


def _elsewhere(folder: Path, files: Iterable[Path]) -> str | None:
    """A note on links out of the folder: what is vetted then is not what the folder holds."""
    links = linked_elsewhere(folder, files)
    if not links:
        return None
    more = f" and {len(links) - 1} more files" if len(links) > 1 else ""
    return f"{links[0].name}{more} of the folder are links to elsewhere ({links[0].resolve()})"


def adapter_notes(folder: Path, reference: str) -> list[str]:
    """A note on an adapter's configuration that was left over beside complete weights.

    Raises:
        CheckpointError: It is a PEFT adapter, which is only a part of a model.
    """
    if not (folder / "adapter_config.json").is_file():
        return []
    if not any((folder / name).is_file() for name in (SINGLE_FILE, INDEX_FILE)):
        raise CheckpointError(
            f"{reference} is a PEFT adapter, not a whole model: merge it into its base model with "
            "merge_and_unload(), save the result together with the tokenizer, and give that folder."
        )
    return ["an adapter_config.json lies beside the weights, which are complete without it"]


def _facts_key(content: str, task: str | None) -> str:
    """Content and everything that decides how it is understood."""
    packages = ("torch", "transformers", "tokenizers")
    versions = [f"{name}={importlib.metadata.version(name)}" for name in packages]
    tasks = [] if task is None else [f"task={task}"]
    text = " ".join([str(FACTS), content, *versions, *tasks])
    return hashlib.sha256(text.encode()).hexdigest()[:32]
