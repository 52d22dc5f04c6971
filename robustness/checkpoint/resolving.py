"""From a reference to a checkpoint: found, downloaded or converted, hashed, and verified.

What was verified once is remembered by content: resolving it again imports no torch.
"""

import dataclasses
import hashlib
import importlib.metadata
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from robustness.checkpoint.checkpoint import Checkpoint
from robustness.checkpoint.conversions.pickles import converted_pickles, has_only_pickles
from robustness.checkpoint.loading import loading_errors, reason, require_memory
from robustness.checkpoint.other_formats import ADAPTER, PICKLE, PICKLE_INDEX
from robustness.checkpoint.reading import PLAIN, Located, ReadOptions
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
    surplus_notes,
)
from robustness.errors import CheckpointError
from robustness.store.files import linked_elsewhere, recall, remember, stamp
from robustness.store.hashing import file_sha256, files_hash

if TYPE_CHECKING:
    from robustness.checkpoint.task_heads import KindChoice

FACTS = 4
"""Version of what is remembered of a verified checkpoint."""

Progress = Callable[[str], None]


def resolve(
    reference: str,
    *,
    cache: Path,
    progress: Progress | None = None,
    check_memory: bool = True,
    task: "KindChoice | None" = None,
    options: ReadOptions = PLAIN,
) -> Checkpoint:
    """Find a checkpoint, download or convert it if necessary, and verify it from its headers.

    What was verified once is remembered by content: resolving it again imports no torch.

    Args:
        reference: A Hub id, a folder, a ``.gguf`` file, or ``pkg:package/path``.
        cache: Directory for converted weights and remembered hashes.
        progress: Told in a short phrase when a long step starts.
        check_memory: Refuse what would not fit into free memory; weight-only work needs none.
        task: The kind of downstream task it is to answer, instead of being a language model.
        options: What is allowed, and named, beside the reference.

    Raises:
        TaskError: It has no head for that task.
        NoLanguageModel: It is complete, but a task is all that it could be asked.
        CheckpointError: It cannot be found or reached, or is damaged, incomplete, not a language
            model, or too large.
    """
    ref = CheckpointRef.parse(reference)
    cache = cache.absolute()
    found = locate(ref, cache, progress, options)
    tokenizer, tokenizer_notes = _tokenizer(found.folder, cache, progress, options)
    files = _Files.of(found, tokenizer)
    if check_memory:
        require_memory(float32_bytes(files.tensors), what=f"Loading {reference}")
    before = stamp(files.all)
    hashes = files.hashes(cache, progress)
    content = hashlib.sha256(" ".join(hashes.values()).encode()).hexdigest()
    facts = _facts(files, content, reference, cache, progress, task)
    own = files.all if tokenizer == found.folder else (*files.weights, files.config)
    notes = [ref.note, *found.notes, *tokenizer_notes, facts.note, _elsewhere(found.folder, own)]
    notes += surplus_notes(found.folder, files.tensors)
    return Checkpoint(
        reference=reference,
        label=ref.label,
        source=ref.kind,
        revision=found.revision or f"sha256:{content[:12]}",
        folder=found.folder,
        tokenizer_folder=tokenizer,
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
    ref: CheckpointRef, cache: Path, progress: Progress | None, options: ReadOptions = PLAIN
) -> Located:
    """A folder of safetensors: the reference's own, or what it is converted to.

    Raises:
        CheckpointError: It cannot be fetched or converted.
    """
    return unpacked(fetch(ref, progress, options), ref, cache, progress, options)


def fetch(
    ref: CheckpointRef,
    progress: Progress | None,
    options: ReadOptions = PLAIN,
    *,
    tokenizer: bool = False,
) -> Located:
    """The folder or GGUF file on this machine, of a Hub checkpoint with its commit, and notes.

    Raises:
        CheckpointError: It cannot be fetched.
    """
    if ref.kind != "hub":
        return Located(folder=Path(ref.target))
    from robustness.checkpoint.hub import download

    place, revision, notes = download(
        ref, progress=progress, allow_pickle=options.allow_pickle, only_tokenizer=tokenizer
    )
    return Located(folder=place, revision=revision, notes=tuple(notes))


def unpacked(
    found: Located,
    ref: CheckpointRef,
    cache: Path,
    progress: Progress | None,
    options: ReadOptions = PLAIN,
) -> Located:
    """What was fetched, as a folder of safetensors.

    Raises:
        CheckpointError: It cannot be converted.
    """
    place = found.folder
    if place.is_file():
        from robustness.checkpoint.gguf.conversion import convert_gguf

        folder, digest = convert_gguf(
            place, cache=cache, progress=progress, tokenizer=options.tokenizer is None
        )
        return replace(found, folder=folder, revision=found.revision or f"sha256:{digest[:12]}")
    if is_adapter(place):
        return _merged(place, ref, cache, progress, options)
    notes = [*found.notes, *adapter_notes(place)]
    if options.allow_pickle and has_only_pickles(place):
        linked = _elsewhere(place, [file for file in place.glob("*") if file.is_file()])
        notes += ["its weights are pickled, and were converted", *filter(None, [linked])]
        place = converted_pickles(place, what=ref.text, cache=cache, progress=progress)
    return replace(found, folder=place, notes=tuple(notes))


def _tokenizer(
    own: Path, cache: Path, progress: Progress | None, options: ReadOptions
) -> tuple[Path, list[str | None]]:
    """The folder of the tokenizer, and notes if it is not the checkpoint's own."""
    if options.tokenizer is None:
        return own, []
    ref = CheckpointRef.parse(options.tokenizer)
    found = fetch(ref, progress, tokenizer=True)
    if found.folder.is_file():
        found = unpacked(found, ref, cache, progress)
    at = "" if found.revision is None else f" at {found.revision}"
    note = f"the tokenizer is not its own but that of {options.tokenizer}{at}"
    return found.folder, [note, _elsewhere(found.folder, tokenizer_files(found.folder))]


@dataclass(frozen=True, kw_only=True)
class _Files:
    """The files of a checkpoint's folder that decide what it is."""

    found: Located
    tensors: Mapping[str, TensorInfo]
    weights: tuple[Path, ...]
    tokenizer: tuple[Path, ...]
    config: Path

    @classmethod
    def of(cls, found: Located, tokenizer: Path) -> "_Files":
        folder = found.folder
        config = folder / "config.json"
        if not config.is_file():
            find_weights(folder)  # has something more helpful to say where there is nothing at all
            raise CheckpointError(f"{folder} has no config.json: it is not a complete checkpoint.")
        tensors = read_tensors(folder)
        return cls(
            found=found,
            tensors=tensors,
            weights=tuple(sorted({info.file for info in tensors.values()})),
            tokenizer=tokenizer_files(tokenizer),
            config=config,
        )

    @property
    def all(self) -> tuple[Path, ...]:
        return (*self.weights, *self.tokenizer, self.config)

    def hashes(self, cache: Path, progress: Progress | None) -> dict[str, str]:
        """Their content hashes, by the names that a checkpoint has for them."""
        known = self.found.weights_hash
        hashed = self.all if known is None else (*self.tokenizer, self.config)
        digests = {
            file: file_sha256(file, memory=cache / "hashes", progress=progress) for file in hashed
        }
        return {
            "weights_hash": known or files_hash(self.weights, digests),
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
    folder, tensors, tokenizer = files.found.folder, files.tensors, files.tokenizer[0].parent
    with loading_errors(reference):  # settings of any type and size meet other people's code
        if task is None:
            facts = verify(folder, tensors, tokenizer, what=reference, progress=progress)
        else:
            from robustness.checkpoint.task_heads import verify_task

            facts = verify_task(folder, tensors, tokenizer, task, what=reference, progress=progress)
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


def is_adapter(folder: Path) -> bool:
    """Whether it holds an adapter's configuration and no weights of a whole model."""
    whole = (SINGLE_FILE, INDEX_FILE, PICKLE, PICKLE_INDEX)
    return (folder / ADAPTER).is_file() and not any((folder / name).is_file() for name in whole)


def adapter_notes(folder: Path) -> list[str]:
    """A note on an adapter's configuration that was left over beside complete weights."""
    if not (folder / ADAPTER).is_file():
        return []
    return [f"an {ADAPTER} lies beside the weights, which are complete without it"]


def _merged(
    folder: Path,
    ref: CheckpointRef,
    cache: Path,
    progress: Progress | None,
    options: ReadOptions,
) -> Located:
    """An adapter merged into its base model, which is found like any checkpoint."""
    from robustness.checkpoint.conversions.adapters import Adapter, adapter_weights, merged_adapter

    weights = adapter_weights(
        folder, what=ref.text, allow_pickle=options.allow_pickle, cache=cache, progress=progress
    )
    adapter = Adapter.read(folder, weights, what=ref.text)
    name = adapter.base(options.base)
    try:
        base_ref = CheckpointRef.parse(name)
        base = fetch(base_ref, progress, options)
        if is_adapter(base.folder):
            raise CheckpointError(f"{name} is itself an adapter.")
        base = unpacked(base, base_ref, cache, progress, options.of_others)
        find_weights(base.folder)
    except CheckpointError as error:
        raise CheckpointError(
            f"The base model {name!r} of the adapter {ref.text} cannot be used ({reason(error)}): "
            "name it with --robustness-base=REF (of a command: --base)."
        ) from error
    merged = merged_adapter(adapter, base, name, cache=cache, progress=progress)
    if weights.parent == folder:
        return merged
    pickled = "the adapter's weights are pickled, and were converted"
    return replace(merged, notes=(*merged.notes, pickled))


def _facts_key(content: str, task: str | None) -> str:
    """Content and everything that decides how it is understood."""
    packages = ("torch", "transformers", "tokenizers")
    versions = [f"{name}={importlib.metadata.version(name)}" for name in packages]
    tasks = [] if task is None else [f"task={task}"]
    text = " ".join([str(FACTS), content, *versions, *tasks])
    return hashlib.sha256(text.encode()).hexdigest()[:32]
