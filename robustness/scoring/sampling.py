"""Everything random in a measurement, as pure functions of (seed, corpus, index).

Choices are made by ranking SHA-256 digests of short labels instead of by a library's generator:
the same order, masks and draws come out in any version of any library and in any language, in any
worker, batch or order of execution. The labels are part of the public protocol
(``docs/PROTOCOL.md``), so that anybody can repeat a measurement without this package.
"""

from collections.abc import Iterable, Sequence
from functools import lru_cache
from hashlib import sha256
from itertools import count, pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from robustness.errors import MeasurementError

MASKED_SHARE = 0.15
"""Share of a text block's non-special tokens that masked scoring masks (Devlin et al. 2019)."""

MEAN_SPAN = 3
"""Mean length of the spans that sequence-to-sequence models are asked for (Raffel et al. 2020)."""

TOKENS_PER_DRAW = 64
"""A random draw stays until at least this many tokens have been scored with it."""


class BlockSeed(NamedTuple):
    """What every random choice about a text block depends on.

    That is the run's seed, the corpus' fingerprint, and the index in the corpus, not in the order.
    """

    seed: int
    fingerprint: str
    block: int


def _rank(*label: object) -> int:
    return int.from_bytes(sha256(":".join(map(str, label)).encode()).digest(), "big")


def _in_order(numbers: Sequence[int], *label: object) -> list[int]:
    """The numbers sorted by the :func:`_rank` of ``(*label, number)``, hashing the label once."""
    begun = sha256("".join(f"{part}:" for part in label).encode())

    def rank(number: int) -> bytes:
        own = begun.copy()
        own.update(str(number).encode())
        return own.digest()

    return sorted(numbers, key=rank)


def uniform_index(size: int, *label: object) -> int:
    """A number from 0 to ``size - 1``, uniform over labels."""
    return _rank(*label) % size


def block_order(n_blocks: int, *, seed: int, fingerprint: str) -> NDArray[np.int64]:
    """Seeded permutation of the corpus' text blocks, shape ``(n_blocks,)``."""
    return np.array(_in_order(range(n_blocks), "order", seed, fingerprint), dtype=np.int64)


def masked_positions(special: NDArray[np.bool_], *, block_seed: BlockSeed) -> NDArray[np.int64]:
    """Positions to mask in one text block, ascending.

    These are ``max(1, round(0.15 n))`` of its ``n`` non-special tokens, as many as BERT's
    pre-training masks.
    """
    return np.array(_masked(special.tobytes(), block_seed), dtype=np.int64)


@lru_cache(maxsize=8192)  # every intervention asks for them again
def _masked(special: bytes, block_seed: BlockSeed) -> tuple[int, ...]:
    candidates = np.flatnonzero(~np.frombuffer(special, dtype=np.bool_)).tolist()
    wanted = max(1, round(MASKED_SHARE * len(candidates)))
    return tuple(sorted(_in_order(candidates, "mask", *block_seed)[:wanted]))


def corrupted_spans(
    special: NDArray[np.bool_],
    *,
    share: float,
    most_spans: int | None = None,
    block_seed: BlockSeed,
) -> list[tuple[int, int]]:
    """Spans of one text block to corrupt, as positions (first, behind the last), ascending.

    As T5's pre-training draws them: of the n tokens that are not special, m = round(share * n) lie
    in s = round(m / 3) spans, or in fewer; both the m and the n - m others are parted at random
    into s pieces of at least one token, which alternate, beginning with the others.
    """
    candidates = np.flatnonzero(~special).tolist()
    n = len(candidates)
    inside = min(max(1, round(share * n)), n - 1)
    n_spans = max(1, min(round(inside / MEAN_SPAN), n - inside, most_spans or n))
    kept = _parted(n - inside, n_spans, "keep", *block_seed)
    lengths = _parted(inside, n_spans, "span", *block_seed)
    chosen, done = [], 0
    for before, length in zip(kept, lengths, strict=True):
        chosen += candidates[done + before : done + before + length]
        done += before + length
    spans: list[tuple[int, int]] = []
    for position in chosen:
        if spans and spans[-1][1] == position:
            spans[-1] = (spans[-1][0], position + 1)
        else:
            spans.append((position, position + 1))
    return spans


def _parted(total: int, parts: int, *label: object) -> list[int]:
    """``total`` in so many pieces of at least 1, cut behind the units of the smallest hashes."""
    units = _in_order(range(1, total), *label)
    cuts = sorted(units[: parts - 1])
    return [end - start for start, end in pairwise([0, *cuts, total])]


def random_dims(candidates: Sequence[int], size: int, *, seed: int, draw: int) -> tuple[int, ...]:
    """Draw number ``draw``: ``size`` different ones of the candidates, uniform, ascending."""
    if len(candidates) < size:
        raise ValueError(f"cannot draw {size} dimensions from {len(candidates)}")
    chosen: set[int] = set()
    for attempt in count():
        if len(chosen) == size:
            break
        chosen.add(candidates[_rank("draw", seed, draw, attempt) % len(candidates)])
    return tuple(sorted(chosen))


class DrawClock:
    """Which random draw each text block of an endless stream of text blocks belongs to.

    A draw stays for consecutive text blocks until ``TOKENS_PER_DRAW`` tokens have been scored
    with it, so that its degradation is not dominated by the noise of a few tokens. ``complete``
    draws have all their text blocks.
    """

    def __init__(self) -> None:
        self.complete = 0
        self._scored = 0

    def assign(self, tokens: Iterable[int]) -> list[int]:
        """Draw numbers of the stream's next text blocks, given their scored tokens."""
        numbers = []
        for scored in tokens:
            numbers.append(self.complete)
            self._scored += scored
            if self._scored >= TOKENS_PER_DRAW:
                self.complete, self._scored = self.complete + 1, 0
        return numbers


def random_candidates(outliers: Iterable[int], *, hidden_size: int, size: int) -> list[int]:
    """The dimensions that ``size`` random ones are drawn from: all but the outliers."""
    candidates = sorted(set(range(hidden_size)) - set(outliers))
    if not 0 < size <= len(candidates):
        raise MeasurementError(
            f"cannot ablate {size} random dimensions: there are {len(candidates)} that are not "
            "outliers, so there is no control; choose a stricter rule or setting of it"
        )
    return candidates
