"""GGUF files: verified from their header before anything is allocated.

The format (ggml, docs/gguf.md): magic, version, number of tensors, number of key-value pairs, the
pairs, one entry per tensor, padding, the tensors' bytes. A file that `llama-gguf-split` cut is read
as one: only its first part holds settings.
"""

import math
import mmap
import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robustness.errors import CheckpointError

SAFETENSORS_INSTEAD = "give the folder of safetensors that it was made from"
"""What to do about a file that cannot be read."""

_VERSIONS = (2, 3)
_FLOAT32, _STRING, _ARRAY = 6, 8, 9
_FORMATS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?"}  # by value type
_FORMATS |= {10: "Q", 11: "q", 12: "d"}
_MAX_DIMENSIONS = 4  # of ggml
_PART = re.compile(r"(.+)-(\d{5})-of-(\d{5})(\.gguf)", re.IGNORECASE)
_DEFAULT_ALIGNMENT = 32


@dataclass(frozen=True, kw_only=True)
class GgufTensor:
    """One tensor as the header describes it.

    Attributes:
        file: The file, or the part of it, that holds its bytes.
        kind: Number of its GGML type.
        shape: Slowest-moving axis first (torch's order).
        offset: Where its bytes start in the file.
        n_bytes: How many there are.
    """

    file: Path
    kind: int
    shape: tuple[int, ...]
    offset: int
    n_bytes: int


@dataclass(frozen=True, kw_only=True)
class GgufSummary:
    """What the header of a GGUF file says.

    Attributes:
        architecture: llama.cpp's name of the architecture, such as ``llama``.
        settings: The key-value pairs.
        tensors: By name.
    """

    architecture: str
    settings: Mapping[str, Any]
    tensors: Mapping[str, GgufTensor]

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of each tensor."""
        return {name: tensor.shape for name, tensor in self.tensors.items()}

    @property
    def float32_bytes(self) -> int:
        """Bytes the tensors take once they are float32."""
        return 4 * sum(math.prod(shape) for shape in self.shapes.values())


def gguf_files(file: Path) -> tuple[Path, ...]:
    """The file itself, or all parts of a split one, by their names.

    Raises:
        CheckpointError: It is another part than the first, or a part is missing.
    """
    match = _PART.fullmatch(file.name)
    if match is None:
        return (file,)
    stem, number, count, ending = match.groups()
    first = f"{stem}-00001-of-{count}{ending}"
    if number != "00001":
        raise CheckpointError(
            f"{file} is part {int(number)} of {int(count)} of a split file: give the first part "
            f"({first})."
        )
    parts = [file]
    for n in range(2, int(count) + 1):
        parts.append(file.with_name(f"{stem}-{n:05}-of-{count}{ending}"))
        if not parts[-1].is_file():
            raise CheckpointError(
                f"{file} is part 1 of {int(count)}, and its part {n} is missing: put "
                f"{parts[-1].name} into the same folder."
            )
    return tuple(parts)


def read_gguf_header(file: Path) -> GgufSummary:
    """Verify a GGUF file's header and that it, or its parts, hold the bytes promised.

    Raises:
        CheckpointError: The file is not GGUF, of an unknown version, damaged or truncated, or not
            the first part of a complete split file.
    """
    files = gguf_files(file)
    tensors: dict[str, GgufTensor] = {}
    settings: dict[str, Any] = {}
    for n, part in enumerate(files):
        pairs, found = _read_file(part)
        settings = settings or pairs
        said = pairs.get("split.no", 0), pairs.get("split.count", 0) or 1
        if said != (n, len(files)):
            raise CheckpointError(
                f"{part} is another part by its header (split.no {said[0]}, split.count "
                f"{said[1]}): restore the parts' names (NAME-00001-of-00003.gguf), or download "
                "them again."
            )
        if again := found.keys() & tensors.keys():
            raise CheckpointError(f"{part} repeats the tensor {min(again)!r} of another part.")
        tensors |= found
    architecture = settings.get("general.architecture")
    if not isinstance(architecture, str) or not architecture:
        raise CheckpointError(f"{file} does not say which architecture it holds: it is damaged.")
    if not tensors:
        raise CheckpointError(f"{file} holds no tensors: it is a vocabulary without a model.")
    promised = settings.get("split.tensors.count", len(tensors))
    if promised != len(tensors):
        raise CheckpointError(
            f"The parts of {file} hold {len(tensors)} tensors instead of the {promised} that the "
            "first promises: download them again."
        )
    return GgufSummary(architecture=architecture, settings=settings, tensors=tensors)


def _read_file(file: Path) -> tuple[dict[str, Any], dict[str, GgufTensor]]:
    """Settings and tensors of one file."""
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


def _parse(blob: mmap.mmap, file: Path) -> tuple[dict[str, Any], dict[str, GgufTensor]]:
    version, n_tensors, n_pairs = struct.unpack_from("<IQQ", blob, 4)
    if version not in _VERSIONS:
        raise CheckpointError(
            f"{file} is GGUF version {version}, only 2 and 3 are known: convert it again with a "
            "current llama.cpp."
        )
    settings: dict[str, Any] = {}
    position = 24
    for _ in range(n_pairs):
        key, position = _string(blob, position)
        (kind,) = struct.unpack_from("<I", blob, position)
        if key in settings:
            raise CheckpointError(f"{file} is damaged: it sets {key!r} twice.")
        settings[key], position = _value(blob, position + 4, kind)
    alignment = settings.get("general.alignment", _DEFAULT_ALIGNMENT)
    if type(alignment) is not int or alignment < 1:
        raise CheckpointError(f"{file} is damaged: it sets general.alignment to {alignment!r}.")
    tensors, position = _read_tensors(blob, position, n_tensors, file)
    places = [(tensor.offset, tensor.offset + tensor.n_bytes) for tensor in tensors.values()]
    end = _end(places, alignment, file)
    data = -(-position // alignment) * alignment
    if tensors and data + end > len(blob):
        raise CheckpointError(
            f"{file} is truncated: its header promises {data + end} bytes, the file has "
            f"{len(blob)}; download or copy it again."
        )
    moved = {name: replace(info, offset=data + info.offset) for name, info in tensors.items()}
    return settings, moved


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
        tensors[name] = GgufTensor(
            file=file, kind=kind, shape=shape, offset=offset, n_bytes=n_bytes
        )
    return tensors, position


def stored_bytes(tensor: GgufTensor) -> NDArray[np.uint8]:
    """One tensor as it is stored.

    Raises:
        CheckpointError: It cannot be read.
    """
    try:
        stored = np.fromfile(tensor.file, np.uint8, count=tensor.n_bytes, offset=tensor.offset)
    except OSError as error:
        raise CheckpointError(f"{tensor.file} cannot be read: {error.strerror}.") from error
    if stored.size != tensor.n_bytes:
        raise CheckpointError(f"{tensor.file} became shorter while it was read.")
    return stored


def read_gguf_tensor(tensor: GgufTensor) -> NDArray[np.float32]:
    """One tensor's values, dequantised, in torch's order of axes.

    Raises:
        CheckpointError: They cannot be read.
        NotImplementedError: The library does not know how to dequantise that type.
    """
    from gguf.constants import GGMLQuantizationType
    from gguf.quants import dequantize

    rows = stored_bytes(tensor).reshape(*tensor.shape[:-1], -1)
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


def _value(blob: mmap.mmap, position: int, kind: int, depth: int = 0) -> tuple[Any, int]:
    """A value, and the position behind it."""
    if kind == _STRING:
        return _string(blob, position)
    if kind != _ARRAY:
        if kind not in _FORMATS:
            raise ValueError(f"unknown value type {kind}")
        (value,) = struct.unpack_from(f"<{_FORMATS[kind]}", blob, position)
        if kind == _FLOAT32:
            value = float(str(np.float32(value)))  # 1e-05 as it was meant, not 9.999999747e-06
        return value, position + struct.calcsize(_FORMATS[kind])
    if depth > 8:
        raise ValueError("arrays are nested too deep")
    inner, count = struct.unpack_from("<IQ", blob, position)
    position += 12
    if inner in _FORMATS:
        end = position + count * struct.calcsize(_FORMATS[inner])
        if end > len(blob):
            raise ValueError("an array runs over the end of the file")
        return list(struct.unpack_from(f"<{count}{_FORMATS[inner]}", blob, position)), end
    values = []
    for _ in range(count):
        value, position = _value(blob, position, inner, depth + 1)
        values.append(value)
    return values, position


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
