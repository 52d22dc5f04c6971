"""A GGUF file becomes a plain folder of float32 safetensors once; from then on it is one.

Reading GGUF takes seconds and twice the memory in every process. The converted folder is written
under a lock, moved into place in one step, and then memory-mapped by all processes alike.
"""

import contextlib
import functools
import hashlib
import importlib.metadata
import io
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from robustness.checkpoint.gguf.header import read_gguf_header
from robustness.checkpoint.gguf.tokenizer import gguf_tokenizer
from robustness.checkpoint.loading import loading_errors, quiet, require_disk, require_memory
from robustness.errors import CheckpointError
from robustness.store.eviction import mark_used
from robustness.store.files import temporary_folder
from robustness.store.hashing import file_sha256

_ADVICE = "give the folder of safetensors that it was made from"
_FORMAT = 2  # of the folder; raise it when what is written changes


def convert_gguf(
    file: Path, *, cache: Path, progress: Callable[[str], None] | None = None
) -> tuple[Path, str]:
    """The folder a GGUF file is converted to, converting it if nobody has yet.

    Returns:
        The folder (config.json, tokenizer files, float32 safetensors) and the file's sha256.

    Raises:
        CheckpointError: The file is damaged, of an architecture transformers cannot read, or
            needs more memory or disk than there is.
    """
    from filelock import FileLock

    summary = read_gguf_header(file)
    digest = file_sha256(file, memory=cache / "hashes", progress=progress)
    folder = cache / "gguf" / hashlib.sha256(f"{digest} {_versions()}".encode()).hexdigest()[:32]
    try:
        if folder.is_dir():
            mark_used(folder)
            return folder, digest
        # Twice: transformers holds all tensors and the model it fills with them.
        require_memory(2 * summary.float32_bytes, what=f"Converting {file.name}")
        folder.parent.mkdir(parents=True, exist_ok=True)
        require_disk(summary.float32_bytes, folder.parent, what=f"Converting {file.name}")
        with FileLock(f"{folder}.lock"):
            if not folder.is_dir():
                if progress is not None:
                    progress(f"converting {file.name} to float32 safetensors, once")
                _convert_into(folder, file)
    except OSError as error:
        raise CheckpointError(
            f"{file.name} cannot be converted: {folder.parent} cannot be written "
            f"({error.strerror or error}); name another folder with --robustness-store."
        ) from error
    return folder, digest


def _convert_into(folder: Path, file: Path) -> None:
    """Make the folder: all of it or nothing."""
    temporary = temporary_folder(folder)
    try:
        # The progress bar of that reader knows no switch, but writes to sys.stderr.
        with (
            loading_errors(f"The GGUF file {file}", advice=_ADVICE),
            quiet(),
            contextlib.redirect_stderr(io.StringIO()),
        ):
            _convert(file, temporary)
        temporary.replace(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _convert(file: Path, folder: Path) -> None:
    import gguf
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    # transformers makes a reader for each of tokenizer, config and tensors, and the table of
    # tensors' names for each module of a model; each time takes seconds. The tensors' reader is not
    # shared: it holds as much memory as they do.
    reader, name_map = _reader(), functools.cache(gguf.get_tensor_name_map)
    local = {"gguf_file": file.name, "local_files_only": True, "trust_remote_code": False}
    with _in_place_of("GGUFReader", functools.cache(reader)):
        metadata = {
            key: field.contents() for key, field in gguf.GGUFReader(str(file)).fields.items()
        }
        tokenizer = gguf_tokenizer(metadata, what=str(file))
        config = AutoConfig.from_pretrained(file.parent, **local)
    auto: Any = AutoModelForCausalLM  # with output_loading_info it returns a pair
    with _in_place_of("GGUFReader", reader), _in_place_of("get_tensor_name_map", name_map):
        model, info = auto.from_pretrained(
            file.parent,
            config=config,
            dtype=torch.float32,
            output_loading_info=True,
            **local,
            **_dequantised(),
        )
    if info["missing_keys"] or info["mismatched_keys"]:
        names = ", ".join(sorted(map(str, {*info["missing_keys"], *info["mismatched_keys"]}))[:5])
        raise CheckpointError(
            f"{file} lacks weights that {type(model).__name__} needs ({names}): convert the "
            "original model again with a current llama.cpp."
        )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _reader() -> type[Any]:
    """The reader of gguf on a plain array: it cuts each word of a vocabulary out of the file.

    For a slice, numpy's memmap takes three times as long.
    """
    import gguf
    import numpy as np

    class Reader(gguf.GGUFReader):
        @property
        def data(self) -> Any:
            return self._data

        @data.setter
        def data(self, mapped: Any) -> None:
            self._data = mapped.view(np.ndarray)

    return Reader


@contextlib.contextmanager
def _in_place_of(name: str, ours: Any) -> Iterator[None]:
    """While inside, transformers finds this where it looks for gguf's function or class."""
    import gguf

    original = getattr(gguf, name)
    setattr(gguf, name, ours)
    try:
        yield
    finally:
        setattr(gguf, name, original)


def _dequantised() -> dict[str, Any]:
    """Ask for dense weights; transformers may else keep GGUF's blocks where a kernel exists."""
    try:
        from transformers import GgufConfig
    except ImportError:  # older versions know nothing but dense weights
        return {}
    return {"quantization_config": GgufConfig(dequantize=True)}


def _versions() -> str:
    versions = [f"{name}={importlib.metadata.version(name)}" for name in ("transformers", "gguf")]
    return " ".join([f"format={_FORMAT}", *versions])
