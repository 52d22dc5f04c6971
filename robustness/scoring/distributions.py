"""A model's next-token distributions in short, and how far another model's lie from them."""

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

MASS = 0.999
"""Of a distribution: its most probable tokens that hold so much are kept."""

MOST_TOKENS = 256
"""Kept tokens at most; a smaller vocabulary is kept in whole, so that nothing is lost."""

SAMPLED = 16
"""Tokens drawn from the rest of a distribution, by which what is lost with the rest is estimated.
"""


@dataclass(frozen=True, kw_only=True, eq=False)
class Distributions:
    """Next-token distributions at N scored positions, in the order of a chunk's rows.

    Attributes:
        counts: how many tokens are kept of each, shape (N,).
        tokens: those, the most probable first, one position after the other, shape (Σcounts,).
        log_p: natural logarithms of their probabilities, same shape.
        sampled: tokens drawn by their probabilities from the rest, shape (N, SAMPLED); -1 where
            there is no rest.
        sampled_log_p: logarithms of their probabilities, same shape.
    """

    _DTYPES: ClassVar[dict[str, str]] = {
        "counts": "<u2",
        "tokens": "<u4",
        "log_p": "<f4",
        "sampled": "<i4",
        "sampled_log_p": "<f4",
    }

    counts: NDArray[np.integer[Any]]
    tokens: NDArray[np.integer[Any]]
    log_p: NDArray[np.floating[Any]]
    sampled: NDArray[np.integer[Any]]
    sampled_log_p: NDArray[np.floating[Any]]

    @cached_property
    def _ends(self) -> NDArray[np.int64]:
        """Where each position's kept tokens begin and end, shape (N + 1,)."""
        return np.concatenate([[0], np.cumsum(self.counts, dtype=np.int64)])

    def between(self, at: slice) -> "Distributions":
        """Those at positions from one to another."""
        kept = slice(self._ends[at.start], self._ends[at.stop])
        parts = {
            name: getattr(self, name)[kept if name in ("tokens", "log_p") else at]
            for name in self._DTYPES
        }
        return Distributions(**parts)

    def rows(self, positions: Sequence[int]) -> list["Distributions"]:
        """Those of each row of a chunk, whose rows have so many scored positions."""
        ends = np.cumsum(positions).tolist()
        return [self.between(slice(end - n, end)) for n, end in zip(positions, ends, strict=True)]

    @property
    def most_probable(self) -> NDArray[np.int64]:
        """The most probable token at each position, shape (N,); of several the lowest number."""
        return self.tokens[self._ends[:-1]].astype(np.int64)

    @classmethod
    def joined(cls, parts: Sequence["Distributions"]) -> "Distributions":
        """Those of several rows, one after the other."""
        columns = {
            name: np.concatenate([getattr(part, name) for part in parts]) for name in cls._DTYPES
        }
        return cls(**columns)

    def to_record(self) -> dict[str, str]:
        """Text for the store: little-endian arrays in base64."""
        return {
            name: base64.b64encode(getattr(self, name).astype(dtype).tobytes()).decode()
            for name, dtype in self._DTYPES.items()
        }

    @classmethod
    def from_record(cls, record: dict[str, Any]) -> "Distributions":
        """The inverse of :meth:`to_record`."""
        arrays = {
            name: np.frombuffer(base64.b64decode(record[name]), dtype=dtype)
            for name, dtype in cls._DTYPES.items()
        }
        for name in ("sampled", "sampled_log_p"):
            arrays[name] = arrays[name].reshape(-1, SAMPLED)
        return cls(**arrays)
