"""Weights in another precision become float32 safetensors once, for all processes to share.

transformers memory-maps float32 files as they are, but turns every other precision into a private
copy per process. Names and order stay, so it makes no difference to what is loaded.
"""

import json
import math
import shutil
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from robustness.checkpoint.loading import loading_errors
from robustness.checkpoint.weights import SINGLE_FILE, TensorInfo, float32_bytes
from robustness.errors import CheckpointError
from robustness.store.eviction import mark_used
from robustness.store.files import temporary_folder

_FLOATING = ("F64", "F16", "BF16")
_LEFT_ALONE = ("F32", "BOOL", "I8", "U8", "I16", "U16", "I32", "U32", "I64", "U64")


def float32_folder(
    folder: Path,
    tensors: Mapping[str, TensorInfo],
    *,
    weights_hash: str,
    cache: Path,
    progress: Callable[[str], None] | None = None,
) -> Path:
    """A folder with the same weights in float32: the folder itself, or a converted one.

    The folder itself is also returned where the cache cannot take the copy, or where the
    precision is one (8 bits and less) that means nothing without its scales.
    """
    from filelock import FileLock

    dtypes = {info.dtype for info in tensors.values()}
    if not dtypes.intersection(_FLOATING) or not dtypes.issubset((*_FLOATING, *_LEFT_ALONE)):
        return folder
    converted = cache / "float32" / weights_hash[:32]
    try:
        if converted.is_dir():
            mark_used(converted)
            return converted
        converted.parent.mkdir(parents=True, exist_ok=True)
        if float32_bytes(tensors) > shutil.disk_usage(converted.parent).free:
            return folder
        with FileLock(f"{converted}.lock"):
            if not converted.is_dir():
                if progress is not None:
                    progress(f"converting {folder.name} to float32, once")
                _convert_into(converted, folder, tensors)
    except OSError:
        return folder  # nowhere to keep it: transformers converts while it loads
    return converted


def _convert_into(converted: Path, folder: Path, tensors: Mapping[str, TensorInfo]) -> None:
    """Make the converted folder: all of it or nothing.

    Raises:
        OSError: It cannot be written.
        CheckpointError: The weights cannot be read.
    """
    temporary = temporary_folder(converted)
    try:
        with loading_errors(f"{folder} (converting its weights to float32)"):
            _write(temporary / SINGLE_FILE, tensors)
        temporary.replace(converted)
    except CheckpointError as error:
        if isinstance(error.__cause__, OSError):
            raise error.__cause__ from None
        raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _write(file: Path, tensors: Mapping[str, TensorInfo]) -> None:
    """One file with all tensors, of which never more than one is in memory."""
    import torch
    from safetensors import safe_open

    def value(name: str) -> Any:
        with safe_open(tensors[name].file, framework="pt") as source:
            stored = source.get_tensor(name)
        wide = stored.to(torch.float32) if tensors[name].dtype in _FLOATING else stored
        return wide.contiguous().numpy()

    dtypes = {
        name: "F32" if info.dtype in _FLOATING else info.dtype for name, info in tensors.items()
    }
    write_tensors(file, {name: (dtypes[name], tensors[name].shape) for name in tensors}, value)


def write_tensors(
    file: Path, tensors: Mapping[str, tuple[str, tuple[int, ...]]], value: Callable[[str], Any]
) -> None:
    """Write a safetensors file tensor by tensor.

    Args:
        file: The file.
        tensors: Their types and shapes, by name.
        value: The array of a name; it is asked for one at a time.
    """
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, (dtype, shape) in tensors.items():
        width = 1 if dtype == "BOOL" else int(dtype[1:]) // 8
        start, end = end, end + width * math.prod(shape)
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with file.open("wb") as stream:
        stream.write(struct.pack("<Q", len(text)) + text)
        for name in tensors:
            value(name).tofile(stream)
