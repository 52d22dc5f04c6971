"""Text blocks as a record of the store, so that a corpus is tokenised once."""

import base64
import zlib
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from robustness.corpus.blocks import TextBlocks
from robustness.corpus.special_tokens import Bos
from robustness.corpus.text_size import TextSizes
from robustness.runtime.libraries import library_versions
from robustness.store.store import Record

if TYPE_CHECKING:
    from robustness.checkpoint.checkpoint import Checkpoint
    from robustness.corpus.corpus import Corpus

KEPT_BLOCKS = 1
"""Version of how text blocks are cut and kept; part of their identity in the store."""

_PLAIN = ("begins_with", "split_examples", "dropped_tokens", "unknown_tokens")


def block_context(
    checkpoint: "Checkpoint",
    corpus: "Corpus",
    *,
    block_size: int,
    bos: Bos,
    context: int,
) -> dict[str, Any]:
    """What text blocks depend on: the same for checkpoints that differ in their weights alone."""
    versions = library_versions()
    return {
        "text_blocks": KEPT_BLOCKS,
        "config": checkpoint.config_hash,  # transformers may choose a tokenizer by it
        "tokenizer": checkpoint.tokenizer_hash,
        "corpus": corpus.fingerprint,
        "block_size": block_size,
        "bos": bos,
        "context": context,
        "versions": {name: versions[name] for name in ("tokenizers", "transformers")},
    }


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
        else TextSizes(**{name: np.array(sizes[name], dtype=np.int64) for name in sizes}),
    )


def _packed(arrays: Sequence[NDArray[Any]]) -> str:
    flat = np.concatenate(arrays).astype("<i4")
    return base64.b64encode(zlib.compress(flat.tobytes(), 1)).decode()
