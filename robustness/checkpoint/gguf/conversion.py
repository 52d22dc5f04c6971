"""A GGUF file becomes a plain folder of float32 safetensors once; from then on it is one.

The converted folder is written under a lock, tensor by tensor, moved into place in one step, and
then memory-mapped by all processes alike.
"""

import hashlib
import importlib.metadata
import shutil
from collections.abc import Callable
from pathlib import Path

from robustness.checkpoint.conversions.float32 import write_tensors
from robustness.checkpoint.gguf.header import (
    SAFETENSORS_INSTEAD,
    GgufSummary,
    gguf_files,
    read_gguf_header,
)
from robustness.checkpoint.gguf.model import GgufModel
from robustness.checkpoint.gguf.tokenizer import gguf_tokenizer
from robustness.checkpoint.loading import loading_errors, quiet, require_disk, require_memory
from robustness.checkpoint.weights import SINGLE_FILE
from robustness.errors import CheckpointError
from robustness.store.eviction import mark_used
from robustness.store.files import temporary_folder
from robustness.store.hashing import file_sha256, files_hash

_FORMAT = 3  # of the folder; raise it when what is written changes


def convert_gguf(
    file: Path,
    *,
    cache: Path,
    progress: Callable[[str], None] | None = None,
    tokenizer: bool = True,
) -> tuple[Path, str]:
    """The folder a GGUF file is converted to, converting it if nobody has yet.

    Args:
        file: The file; of a split one, its first part.
        cache: Where the folder is kept.
        progress: Told in a short phrase when a long step starts.
        tokenizer: Whether its tokenizer is needed; otherwise it may be one that cannot be rebuilt.

    Returns:
        The folder (config.json, tokenizer files, float32 safetensors) and the file's sha256, or
        that of the names and sha256 of its parts.

    Raises:
        CheckpointError: The file is damaged, of an architecture or with a setting that cannot be
            read, or needs more memory or disk than there is.
    """
    from filelock import FileLock

    summary = read_gguf_header(file)
    files = gguf_files(file)
    digests = {
        part: file_sha256(part, memory=cache / "hashes", progress=progress) for part in files
    }
    digest = digests[file] if len(files) == 1 else files_hash(files, digests)
    folder = cache / "gguf" / hashlib.sha256(f"{digest} {_versions()}".encode()).hexdigest()[:32]
    if not tokenizer and not folder.is_dir():
        folder = folder.with_name(f"{folder.name}-model")
    try:
        if folder.is_dir():
            mark_used(folder)
            return folder, digest
        require_memory(summary.float32_bytes, what=f"Converting {file.name}")
        folder.parent.mkdir(parents=True, exist_ok=True)
        require_disk(summary.float32_bytes, folder.parent, what=f"Converting {file.name}")
        with FileLock(f"{folder}.lock"):
            if not folder.is_dir():
                if progress is not None:
                    progress(f"converting {file.name} to float32 safetensors, once")
                _convert_into(folder, file, summary, tokenizer)
    except OSError as error:
        raise CheckpointError(
            f"{file.name} cannot be converted: {folder.parent} cannot be written "
            f"({error.strerror or error}); name another folder with --robustness-store."
        ) from error
    return folder, digest


def _convert_into(folder: Path, file: Path, summary: GgufSummary, tokenizer: bool) -> None:
    """Make the folder: all of it or nothing."""
    temporary = temporary_folder(folder)
    try:
        with loading_errors(f"The GGUF file {file}", advice=SAFETENSORS_INSTEAD), quiet():
            _convert(file, summary, temporary, tokenizer)
        temporary.replace(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _convert(file: Path, summary: GgufSummary, folder: Path, tokenizer: bool) -> None:
    own = gguf_tokenizer(summary.settings, what=str(file)) if tokenizer else None
    write_model(GgufModel.of(file, summary), folder)
    if own is not None:
        own.save_pretrained(folder)


def write_model(model: GgufModel, folder: Path) -> None:
    """Write config.json and the weights, in float32."""
    model.skeleton.config.save_pretrained(folder)
    shapes = {name: ("F32", model.shape(name)) for name in model.sources}
    write_tensors(folder / SINGLE_FILE, shapes, model.tensor)


def _versions() -> str:
    versions = [f"{name}={importlib.metadata.version(name)}" for name in ("transformers", "gguf")]
    return " ".join([f"format={_FORMAT}", *versions])
