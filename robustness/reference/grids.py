"""Values on an even grid, as rounding to a few bits leaves them, whoever did it and however."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from robustness.checkpoint.weights import TensorInfo
from robustness.reference.tensors import Pair, entries

SAMPLES = 16
"""Rows, columns or blocks of a tensor that are looked at."""

MOST_LEVELS = 300
FEWEST_VALUES = 16
OFF_GRID = 0.15
"""Of a step, how far a value may lie beside the grid."""

BLOCKS = (32, 16)
"""Values that share a scale in the block formats of GGUF."""


@dataclass(frozen=True, kw_only=True)
class Grid:
    """About how many bits tell the values of one ``channel``, ``tensor`` or ``block`` apart."""

    bits: int
    per: str


def grid(pair: Pair) -> Grid | None:
    """The grid that the candidate's values lie on and the reference's do not; None if on none."""
    if len(pair.reference.shape) != 2 or min(pair.reference.shape) < FEWEST_VALUES:
        return None
    for at, per, share in _groups(pair.reference):
        ours = [_levels(entries(pair.candidate, each)) for each in at]
        known = [each for each in ours if each is not None]
        if len(known) < share * len(at):
            continue
        theirs = [_levels(entries(pair.reference, each)) for each in at]
        if sum(each is not None for each in theirs) > 0.2 * len(at):
            return None
        steps = [step for _, step in known]
        alike = max(steps) < 1.001 * min(steps)
        bits = math.ceil(math.log2(max(levels for levels, _ in known)))
        return Grid(bits=bits, per="tensor" if alike and per == "channel" else per)
    return None


def _groups(info: TensorInfo) -> Iterator[tuple[list[NDArray[np.int64]], str, float]]:
    """Entries that may share a grid: some rows, columns, blocks; and how many of them must."""
    n_rows, width = info.shape
    rows = np.unique(np.linspace(0, n_rows - 1, SAMPLES).astype(np.int64))
    columns = np.unique(np.linspace(0, width - 1, SAMPLES).astype(np.int64))
    yield [row * width + np.arange(width) for row in rows], "channel", 0.8
    yield [column + width * np.arange(n_rows) for column in columns], "channel", 0.8
    for size in BLOCKS:
        if width % size == 0 and width > size:
            starts = rows * width + columns[: len(rows)][-1] // size * size
            yield [start + np.arange(size) for start in starts], "block", 0.6


def _levels(values: NDArray[np.float64]) -> tuple[int, float] | None:
    """How many levels an even grid has that holds all values, and its step; None if none does."""
    distinct = np.unique(values)
    if len(distinct) < 2 or not np.isfinite(distinct).all():
        return None
    gaps = np.diff(distinct)
    step = float(np.median(gaps[gaps < 1.5 * gaps.min()]))
    places = (distinct - distinct[0]) / step
    if places[-1] > MOST_LEVELS or np.abs(places - np.rint(places)).max() > OFF_GRID:
        return None
    return round(float(places[-1])) + 1, step
