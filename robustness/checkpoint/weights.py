"""Safetensors files: verified from their headers before a byte of weights is allocated.

The format: eight bytes little-endian header length N, N bytes of JSON, then the tensors' bytes.
Everything here is read from the JSON, so a ten-terabyte promise costs nothing to refuse.
"""

import json
import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NoReturn

from robustness.checkpoint.other_formats import in_place_of_weights
from robustness.errors import CheckpointError

SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"

_MAX_HEADER_BYTES = 100_000_000  # the limit of the safetensors library itself
_MAX_INDEX_BYTES = 100_000_000
_BITS = {
    **dict.fromkeys(("F64", "I64", "U64", "C64"), 64),
    **dict.fromkeys(("F32", "I32", "U32"), 32),
    **dict.fromkeys(("F16", "BF16", "I16", "U16"), 16),
    **dict.fromkeys(("BOOL", "I8", "U8", "F8_E4M3", "F8_E5M2", "F8_E8M0"), 8),
    **dict.fromkeys(("F8_E4M3FNUZ", "F8_E5M2FNUZ"), 8),
    **dict.fromkeys(("F6_E2M3", "F6_E3M2"), 6),
    "F4": 4,
}


@dataclass(frozen=True, kw_only=True)
class TensorInfo:
    """One tensor as a header describes it; its bytes start at ``offset`` in the file."""

    name: str
    file: Path
    dtype: str
    shape: tuple[int, ...]
    offset: int

    @property
    def n_elements(self) -> int:
        """Number of values."""
        return math.prod(self.shape)

    def rows(self, start: int, stop: int) -> "TensorInfo":
        """Some of its rows, as a tensor of their own; they must be of whole bytes."""
        width = math.prod(self.shape[1:])
        offset = self.offset + start * width * _BITS[self.dtype] // 8
        return replace(self, shape=(stop - start, *self.shape[1:]), offset=offset)


def find_weights(folder: Path) -> tuple[Path, ...]:
    """The safetensors files of a checkpoint folder: the single file, or the shards of the index.

    Raises:
        CheckpointError: There are none, or the index is damaged or points outside the folder.
    """
    if any(folder.glob("shard-*-model-*.safetensors")):
        # transformers would read these, which no index ties together, before any other file.
        raise CheckpointError(
            f"{folder} holds a distributed training checkpoint (shard-*.safetensors): gather it "
            "and save it with save_pretrained()."
        )
    if (folder / SINGLE_FILE).is_file():
        return (folder / SINGLE_FILE,)
    if (folder / INDEX_FILE).is_file():
        return tuple(folder / shard for shard in sorted(set(weight_map(folder).values())))
    raise CheckpointError(
        f"{folder} {in_place_of_weights(folder, single=SINGLE_FILE, index=INDEX_FILE)}"
    )


def read_tensors(folder: Path) -> dict[str, TensorInfo]:
    """Every tensor of a checkpoint folder by its name in the files, all headers verified.

    Raises:
        CheckpointError: A file is missing, damaged or truncated, a tensor occurs twice, or the
            index and the files disagree.
    """
    tensors: dict[str, TensorInfo] = {}
    for file in find_weights(folder):
        for info in read_header(file):
            if info.name in tensors:
                raise CheckpointError(
                    f"The tensor {info.name!r} is in {tensors[info.name].file.name} and again in "
                    f"{file.name} of {folder}: save the checkpoint again."
                )
            tensors[info.name] = info
    if not (folder / SINGLE_FILE).is_file():
        for name, shard in weight_map(folder).items():
            if name not in tensors or tensors[name].file.name != shard:
                raise CheckpointError(
                    f"{INDEX_FILE} of {folder} promises the tensor {name!r} in {shard!r}, which "
                    "does not hold it: download or save the checkpoint again."
                )
    if not tensors:
        raise CheckpointError(f"The safetensors files of {folder} hold no tensors at all.")
    return tensors


def surplus_notes(folder: Path, tensors: Mapping[str, TensorInfo]) -> list[str]:
    """Notes on files that hold weights and are not read, and on tensors that no index names."""
    notes = []
    read = {info.file.name for info in tensors.values()}
    if others := sorted({file.name for file in folder.glob("*.safetensors")} - read):
        more = f" and {len(others) - 1} more" if len(others) > 1 else ""
        notes.append(f"not read: {others[0]}{more}, beside the checkpoint's own files")
    if not (folder / SINGLE_FILE).is_file() and (
        beyond := sorted(tensors.keys() - weight_map(folder).keys())
    ):
        more = f" and {len(beyond) - 1} more" if len(beyond) > 1 else ""
        notes.append(f"{INDEX_FILE} does not name {beyond[0]}{more}, which its shards hold")
    return notes


def read_header(file: Path) -> list[TensorInfo]:
    """Verify one safetensors file and list its tensors, in the order of their bytes.

    Raises:
        CheckpointError: The header is not valid, tensors overlap or leave gaps, or the file is
            shorter or longer than the header promises.
    """
    header, first, data_bytes = _read_header_json(file)
    metadata = header.get("__metadata__", {})
    texts = (*metadata, *metadata.values()) if isinstance(metadata, dict) else (None,)
    if not all(map(_is_text, (*texts, *header))):
        raise CheckpointError(f"{file} is damaged: its metadata or a name in it is no text.")
    entries = [
        _tensor_entry(file, first, name, entry)
        for name, entry in header.items()
        if name != "__metadata__"
    ]
    entries.sort(key=lambda entry: entry[1:])
    end = 0
    for info, start, stop in entries:
        if start != end:
            raise CheckpointError(
                f"{file} is damaged: tensor {info.name!r} "
                f"{'overlaps its neighbour' if start < end else 'leaves a gap'} at byte {start}."
            )
        end = stop
    if end > data_bytes:
        raise CheckpointError(
            f"{file} is truncated: its header promises {end} bytes of tensors, the file has "
            f"{data_bytes}; download or copy it again."
        )
    if end < data_bytes:
        raise CheckpointError(
            f"{file} is damaged: {data_bytes - end} bytes at its end belong to no tensor."
        )
    return [info for info, _, _ in entries]


def _read_header_json(file: Path) -> tuple[dict[str, Any], int, int]:
    """The header's JSON object, where the tensors start, and the number of bytes from there."""
    try:
        size = file.stat().st_size
        with file.open("rb") as stream:
            start = stream.read(8)
            if len(start) < 8:
                raise CheckpointError(f"{file} is truncated: {size} bytes are no safetensors file.")
            (length,) = struct.unpack("<Q", start)
            if start == b"version ":
                raise CheckpointError(
                    f"{file} is a pointer of Git LFS, not the file itself: run 'git lfs pull'."
                )
            if length > _MAX_HEADER_BYTES:
                raise CheckpointError(
                    f"{file} is no safetensors file: it promises a header of {length} bytes."
                )
            if length > size - 8:
                raise CheckpointError(
                    f"{file} is truncated: it promises a header of {length} bytes, the file has "
                    f"{size - 8} behind its length."
                )
            text = stream.read(length)
    except OSError as error:
        raise CheckpointError(f"{file} cannot be read: {error.strerror or error}.") from error
    header = parse_json(text, what=f"The header of {file}")
    if not isinstance(header, dict):
        raise CheckpointError(f"{file} is no safetensors file: its header is not a JSON object.")
    return header, 8 + length, size - 8 - length


def _tensor_entry(file: Path, first: int, name: str, entry: Any) -> tuple[TensorInfo, int, int]:
    def damaged(what: str) -> NoReturn:
        raise CheckpointError(f"{file} is damaged: tensor {name!r} {what}.")

    if not isinstance(entry, dict):
        damaged("has no description")
    if surplus := entry.keys() - {"dtype", "shape", "data_offsets"}:
        damaged(f"is described by the unknown {min(surplus)!r}")
    dtype: Any = entry.get("dtype")
    shape: Any = entry.get("shape")
    offsets: Any = entry.get("data_offsets")
    if not isinstance(dtype, str) or dtype not in _BITS:
        damaged(f"has the unknown dtype {dtype!r}")
    if not _is_sizes(shape):
        damaged(f"has the impossible shape {shape!r}")
    if not _is_sizes(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        damaged(f"has the impossible offsets {offsets!r}")
    start, stop = offsets
    if math.prod(shape) * _BITS[dtype] != (stop - start) * 8:
        damaged(f"of shape {shape} and dtype {dtype} cannot fill {stop - start} bytes")
    info = TensorInfo(name=name, file=file, dtype=dtype, shape=tuple(shape), offset=first + start)
    return info, start, stop


def _is_text(value: Any) -> bool:
    """Whether it is a string without half a surrogate, which only an escape can bring in."""
    return isinstance(value, str) and not any("\ud800" <= letter <= "\udfff" for letter in value)


def _is_sizes(value: Any) -> bool:
    return isinstance(value, list) and all(type(n) is int and n >= 0 for n in value)


def weight_map(
    folder: Path, name: str = INDEX_FILE, *, suffix: str = ".safetensors"
) -> Mapping[str, str]:
    """The index's map from tensor name to shard, every shard a bare name that exists.

    Raises:
        CheckpointError: The index is damaged, or points outside its folder.
    """
    file = folder / name
    shards = read_json(file, max_bytes=_MAX_INDEX_BYTES).get("weight_map")
    if not isinstance(shards, dict) or not shards:
        raise CheckpointError(f"{file} has no 'weight_map': it says nowhere which file holds what.")
    for shard in set(map(str, shards.values())):
        if Path(shard).name != shard or "\\" in shard or shard in ("", ".", ".."):
            raise CheckpointError(
                f"{file} points outside its folder, to {shard!r}: shards must lie beside the index."
            )
        if not shard.endswith(suffix):
            raise CheckpointError(f"{file} names {shard!r}, which is no {suffix[1:]} file.")
        if not (folder / shard).is_file():
            raise CheckpointError(
                f"{folder} is incomplete: {name} names {shard!r}, which is not there."
            )
    return {str(name): str(shard) for name, shard in shards.items()}


def read_json(file: Path, *, max_bytes: int = 10_000_000) -> dict[str, Any]:
    """Read a JSON object from a checkpoint folder.

    Raises:
        CheckpointError: The file is missing, too large, or no JSON object, or repeats a key.
    """
    try:
        size = file.stat().st_size
        if size > max_bytes:
            raise CheckpointError(f"{file} has {size} bytes, which is far more than it may need.")
        text = file.read_bytes()
    except OSError as error:
        raise CheckpointError(f"{file} cannot be read: {error.strerror or error}.") from error
    value = parse_json(text, what=str(file))
    if not isinstance(value, dict):
        raise CheckpointError(f"{file} is not a JSON object.")
    return value


def parse_json(text: bytes, *, what: str) -> Any:
    """Parse JSON that may be hostile: repeated keys and bottomless nesting are refused."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        result = dict(pairs)
        if len(result) != len(pairs):
            names = [name for name, _ in pairs]
            twice = next(name for name in names if names.count(name) > 1)
            raise CheckpointError(f"{what} names {twice!r} twice, so what it says is ambiguous.")
        return result

    try:
        return json.loads(text.decode("utf-8"), object_pairs_hook=unique)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{what} is not valid JSON: {_one_line(error)}.") from error


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def float32_bytes(tensors: Mapping[str, TensorInfo]) -> int:
    """Bytes that the tensors take once they are float32."""
    return 4 * sum(info.n_elements for info in tensors.values())
