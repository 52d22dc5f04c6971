"""Text blocks as a record of the store, so that a corpus is tokenised once."""

import base64
import zlib
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robustness.blocks import TextBlocks
from robustness.store import Record
from robustness.text_size import TextSizes

_PLAIN = ("begins_with", "split_examples", "dropped_tokens", "unknown_tokens")
_SIZES = ("tokens", "words", "utf8_bytes")


def to_record(blocks: TextBlocks) -> Record:
    """JSON types that hold text blocks, a few bytes for each token."""
    words = blocks.words
    return {
        **{name: getattr(blocks, name) for name in _PLAIN},
        "given": list(blocks.given),
        "lengths": [len(ids) for ids in blocks.ids],
        "ids": _packed(blocks.ids),
        "special": _packed(blocks.special),
        # Words count up: their differences take less room.
        "words": None if words is None else _packed([np.diff(each, prepend=0) for each in words]),
        "sizes": None
        if blocks.sizes is None
        else {name: values.tolist() for name, values in asdict(blocks.sizes).items()},
    }


def from_record(record: Record) -> TextBlocks:
    """The text blocks that :func:`to_record` was given."""
    ends = np.cumsum(record["lengths"])

    def unpacked(name: str) -> tuple[NDArray[np.int64], ...]:
        flat = np.frombuffer(zlib.decompress(base64.b64decode(record[name])), dtype="<i4")
        return tuple(np.split(flat.astype(np.int64), ends[:-1]))

    differences = None if record["words"] is None else unpacked("words")
    sizes: dict[str, Any] | None = record["sizes"]
    return TextBlocks(
        **{name: record[name] for name in _PLAIN},
        given=tuple(record["given"]),
        ids=unpacked("ids"),
        special=tuple(flags.astype(np.bool_) for flags in unpacked("special")),
        words=None if differences is None else tuple(map(np.cumsum, differences)),
        sizes=None
        if sizes is None
        else TextSizes(**{name: np.array(sizes[name], dtype=np.int64) for name in _SIZES}),
    )


def _packed(arrays: Sequence[NDArray[Any]]) -> str:
    flat = np.concatenate(arrays).astype("<i4")
    return base64.b64encode(zlib.compress(flat.tobytes(), 1)).decode()
