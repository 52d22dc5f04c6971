"""GGUF files: verified from their header before anything is allocated.

The format (ggml, docs/gguf.md): magic, version, number of tensors, number of key-value pairs, the
pairs, one entry per tensor, padding, the tensors' bytes. Only lengths are followed here; values
are left to the library that converts the file.
"""

import math
import mmap
import struct
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from robustness.errors import CheckpointError

_VERSIONS = (2, 3)
_STRING, _ARRAY = 8, 9
_WIDTH = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}  # by value type
_MAX_DIMENSIONS = 4  # of ggml
_DEFAULT_ALIGNMENT = 32


@dataclass(frozen=True, kw_only=True)
class GgufTensor:
    """One tensor as the header describes it.

    Attributes:
        kind: Number of its GGML type.
        shape: Slowest-moving axis first (torch's order).
        offset: Where its bytes start in the file.
        n_bytes: How many there are.
    """

    kind: int
    shape: tuple[int, ...]
    offset: int
    n_bytes: int


@dataclass(frozen=True, kw_only=True)
class GgufSummary:
    """What the header of a GGUF file says.

    Attributes:
        architecture: llama.cpp's name of the architecture, such as ``llama``.
        tensors: By name.
    """

    architecture: str
    tensors: dict[str, GgufTensor]

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of each tensor."""
        return {name: tensor.shape for name, tensor in self.tensors.items()}

    @property
    def float32_bytes(self) -> int:
        """Bytes the tensors take once they are float32."""
        return 4 * sum(math.prod(shape) for shape in self.shapes.values())


def read_gguf_header(file: Path) -> GgufSummary:
    """Verify a GGUF file's header and that the file holds the bytes it promises.

    Raises:
        CheckpointError: The file is not GGUF, of an unknown version, damaged or truncated.
    """
    try:
        with file.open("rb") as stream:
            if stream.read(4) != b"GGUF":
                raise CheckpointError(f"{file} is not a GGUF file: it does not start with 'GGUF'.")
            with mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as blob:
                return _parse(blob, file)
    except (struct.error, IndexError, ValueError, OverflowError) as error:
        # Every length is checked against the file by the read that follows it.
        raise CheckpointError(
            f"{file} is truncated or damaged: its header ends early; download or copy it again."
        ) from error
    except OSError as error:
        raise CheckpointError(f"{file} cannot be read: {error.strerror or error}.") from error


def _parse(blob: mmap.mmap, file: Path) -> GgufSummary:
    version, n_tensors, n_pairs = struct.unpack_from("<IQQ", blob, 4)
    if version not in _VERSIONS:
        raise CheckpointError(
            f"{file} is GGUF version {version}, only 2 and 3 are known: convert it again with a "
            "current llama.cpp."
        )
    architecture, alignment, position = _read_pairs(blob, 24, n_pairs)
    if not architecture or alignment < 1:
        raise CheckpointError(f"{file} does not say which architecture it holds: it is damaged.")
    tensors, position = _read_tensors(blob, position, n_tensors, file)
    if not tensors:
        raise CheckpointError(f"{file} holds no tensors: it is a vocabulary without a model.")
    places = [(tensor.offset, tensor.offset + tensor.n_bytes) for tensor in tensors.values()]
    end = _end(places, alignment, file)
    data = -(-position // alignment) * alignment
    if data + end > len(blob):
        raise CheckpointError(
            f"{file} is truncated: its header promises {data + end} bytes, the file has "
            f"{len(blob)}; download or copy it again."
        )
    tensors = {name: replace(info, offset=data + info.offset) for name, info in tensors.items()}
    return GgufSummary(architecture=architecture, tensors=tensors)


def _read_pairs(blob: mmap.mmap, position: int, n_pairs: int) -> tuple[str, int, int]:
    """Of the metadata the architecture and the alignment, and where the metadata end."""
    architecture, alignment = "", _DEFAULT_ALIGNMENT
    for _ in range(n_pairs):
        key, position = _string(blob, position)
        (kind,) = struct.unpack_from("<I", blob, position)
        position += 4
        if key == "general.architecture" and kind == _STRING:
            architecture, position = _string(blob, position)
        elif key == "general.alignment" and _WIDTH.get(kind) == 4:
            (alignment,) = struct.unpack_from("<I", blob, position)
            position += 4
        else:
            position = _skip(blob, position, kind)
    return architecture, alignment, position


def _read_tensors(
    blob: mmap.mmap, position: int, n_tensors: int, file: Path
) -> tuple[dict[str, GgufTensor], int]:
    """The tensors, their offsets counted from where the data begin, and where the header ends."""
    tensors: dict[str, GgufTensor] = {}
    for _ in range(n_tensors):
        name, position = _string(blob, position)
        (n_dimensions,) = struct.unpack_from("<I", blob, position)
        if n_dimensions > _MAX_DIMENSIONS or name in tensors:
            raise CheckpointError(f"{file} is damaged: its tensor {name!r} is described wrongly.")
        shape = struct.unpack_from(f"<{n_dimensions}Q", blob, position + 4)[::-1]
        position += 4 + 8 * n_dimensions
        kind, offset = struct.unpack_from("<IQ", blob, position)
        position += 12
        n_bytes = _tensor_bytes(kind, shape, file)
        tensors[name] = GgufTensor(kind=kind, shape=shape, offset=offset, n_bytes=n_bytes)
    return tensors, position


def read_gguf_tensor(file: Path, tensor: GgufTensor) -> NDArray[np.float32]:
    """One tensor's values, dequantised, in torch's order of axes.

    Raises:
        CheckpointError: They cannot be read.
        NotImplementedError: The library does not know how to dequantise that type.
    """
    from gguf.constants import GGMLQuantizationType
    from gguf.quants import dequantize

    try:
        stored = np.fromfile(file, np.uint8, count=tensor.n_bytes, offset=tensor.offset)
    except OSError as error:
        raise CheckpointError(f"{file} cannot be read: {error.strerror or error}.") from error
    if stored.size != tensor.n_bytes:
        raise CheckpointError(f"{file} became shorter while it was read.")
    rows = stored.reshape(*tensor.shape[:-1], -1)
    values: NDArray[np.float32] = dequantize(rows, GGMLQuantizationType(tensor.kind))
    return values


def _end(places: list[tuple[int, int]], alignment: int, file: Path) -> int:
    """Where the last tensor ends; each begins at a multiple of the alignment, none in another."""
    end = 0
    for start, stop in sorted(places):
        if start < end or start % alignment:
            raise CheckpointError(
                f"{file} is damaged: a tensor begins at byte {start} of its data, where none can "
                "begin; download or copy it again."
            )
        end = stop
    return end


def _string(blob: mmap.mmap, position: int) -> tuple[str, int]:
    (length,) = struct.unpack_from("<Q", blob, position)
    end = position + 8 + length
    if end > len(blob):
        raise ValueError("a string runs over the end of the file")
    return blob[position + 8 : end].decode("utf-8", errors="replace"), end


def _skip(blob: mmap.mmap, position: int, kind: int, depth: int = 0) -> int:
    """The position behind a value."""
    if kind == _STRING:
        (length,) = struct.unpack_from("<Q", blob, position)
        end: int = position + 8 + length
    elif kind == _ARRAY:
        if depth > 8:
            raise ValueError("arrays are nested too deep")
        inner, count = struct.unpack_from("<IQ", blob, position)
        end = position + 12
        if inner in _WIDTH:
            end += count * _WIDTH[inner]
        else:
            for _ in range(count):
                end = _skip(blob, end, inner, depth + 1)
    else:
        if kind not in _WIDTH:
            raise ValueError(f"unknown value type {kind}")
        end = position + _WIDTH[kind]
    if end > len(blob):
        raise ValueError("a value runs over the end of the file")
    return end


def _tensor_bytes(kind: int, shape: tuple[int, ...], file: Path) -> int:
    from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType

    try:
        block, size = GGML_QUANT_SIZES[GGMLQuantizationType(kind)]
    except (ValueError, KeyError):
        raise CheckpointError(
            f"{file} holds tensors of the unknown GGML type {kind}: update the package gguf."
        ) from None
    n_bytes: int = -(-math.prod(shape) // block) * size
    return n_bytes
