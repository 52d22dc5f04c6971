"""The values of single tensors, read from safetensors files one by one.

The format is little-endian and row-major, so a few tensors of a large checkpoint take milliseconds
and no torch; only whether all of them are finite is left to torch.
"""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robustness.checkpoint.weights import TensorInfo, read_tensors
from robustness.errors import CheckpointError

_DTYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2"}


def read_values(info: TensorInfo) -> NDArray[np.floating[Any]]:
    """The values of a tensor that a verified header describes.

    Returns:
        A float32 array (float64 where the file holds float64) of the tensor's shape.

    Raises:
        CheckpointError: It cannot be read, or its values are not plain numbers.
    """
    if info.dtype not in _DTYPES:
        raise CheckpointError(
            f"The tensor {info.name!r} is quantised ({info.dtype}): its values are codes."
        )
    try:
        stored: NDArray[Any] = np.fromfile(
            info.file, _DTYPES[info.dtype], count=info.n_elements, offset=info.offset
        )
    except OSError as error:
        raise CheckpointError(f"{info.file} cannot be read: {error.strerror or error}.") from error
    if stored.size != info.n_elements:
        raise CheckpointError(f"{info.file} became shorter while it was read.")
    if info.dtype == "BF16":  # the upper half of a float32
        stored = (stored.astype(np.uint32) << 16).view(np.float32)
    wide = np.float64 if info.dtype == "F64" else np.float32
    values: NDArray[Any] = stored.astype(wide, copy=False).reshape(info.shape)
    return values


def non_finite_tensors(folder: Path) -> list[str]:
    """Names of the floating-point tensors that hold NaN or infinity, read one after the other."""
    import torch
    from safetensors import safe_open

    names_of: dict[Path, list[str]] = {}
    for name, tensor in read_tensors(folder).items():
        names_of.setdefault(tensor.file, []).append(name)
    broken = []
    for file, names in names_of.items():
        with safe_open(file, framework="pt") as tensors:
            for name in names:
                values = tensors.get_tensor(name)
                if values.is_floating_point() and not bool(torch.isfinite(values).all()):
                    broken.append(name)
    return sorted(broken)
