"""A GGUF file becomes a plain folder of float32 safetensors once; from then on it is one.

The converted folder is written under a lock, tensor by tensor, moved into place in one step, and
then memory-mapped by all processes alike.
"""

import hashlib
import importlib.metadata
from collections.abc import Callable
from pathlib import Path

from robustness.checkpoint.conversions.float32 import write_tensors
from robustness.checkpoint.conversions.once import made_once
from robustness.checkpoint.gguf.header import (
    SAFETENSORS_INSTEAD,
    GgufSummary,
    gguf_files,
    read_gguf_header,
)
from robustness.checkpoint.gguf.model import GgufModel
from robustness.checkpoint.gguf.tokenizer import gguf_tokenizer
from robustness.checkpoint.loading import loading_errors, quiet, require_memory
from robustness.checkpoint.weights import SINGLE_FILE
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
    summary = read_gguf_header(file)
    files = gguf_files(file)
    digests = {
        part: file_sha256(part, memory=cache / "hashes", progress=progress) for part in files
    }
    digest = digests[file] if len(files) == 1 else files_hash(files, digests)
    folder = cache / "gguf" / hashlib.sha256(f"{digest} {_versions()}".encode()).hexdigest()[:32]
    if not tokenizer and not folder.is_dir():
        folder = folder.with_name(f"{folder.name}-model")
    if not folder.is_dir():
        require_memory(summary.float32_bytes, what=f"Converting {file.name}")

    def make(temporary: Path) -> None:
        if progress is not None:
            progress(f"converting {file.name} to float32 safetensors, once")
        with loading_errors(f"The GGUF file {file}", advice=SAFETENSORS_INSTEAD), quiet():
            _convert(file, summary, temporary, tokenizer)

    made_once(folder, make, n_bytes=summary.float32_bytes, what=file.name)
    return folder, digest


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
