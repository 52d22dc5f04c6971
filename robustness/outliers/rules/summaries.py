"""What the activation rules see of a forward pass: reduced as it goes, so that memory is bounded.

B text blocks, L layers, D features; a text block is one sequence of the papers. No tensor over
positions is kept.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_Array = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, eq=False)
class LayerOutputs:
    """The hidden states behind each layer (the residual stream), over all positions.

    Attributes:
        lowest: smallest value of each feature in each text block, shape (L, B, D).
        highest: likewise the largest.
        median_abs: median of |x| over a text block's positions and features, shape (L, B).
        mean: their mean, shape (L, B).
        std: their sample standard deviation, shape (L, B).
        kurtosis: mean((x - mean)⁴) / (std⁴ + 1e-6), shape (L, B).
        max_to_median: mean over positions of max_j |x_j| / median_j |x_j|, shape (L, B).
        mean_square: of each feature over all positions of all text blocks, shape (L, D).
        tokens: positions of each text block, shape (B,).
        sentences: the last layer's hidden state at the position that stands for the text block,
            the first one for masked models and the last one for causal models, shape (B, D).
    """

    lowest: _Array
    highest: _Array
    median_abs: _Array
    mean: _Array
    std: _Array
    kurtosis: _Array
    max_to_median: _Array
    mean_square: _Array
    tokens: NDArray[np.int64]
    sentences: _Array

    @property
    def largest(self) -> _Array:
        """Largest |x| of each feature in each text block, shape (L, B, D)."""
        return np.maximum(np.abs(self.lowest), np.abs(self.highest))


@dataclass(frozen=True, kw_only=True, eq=False)
class DenseInputs:
    """The H hidden states that dense layers read: into attention, and into the FFN's expansion.

    Attributes:
        layer: the layer whose dense layers read it, shape (H,).
        n_layers: L.
        largest: largest |x| of each feature over all positions, shape (H, D).
        hits: positions at which |x| >= threshold, shape (H, D).
        threshold: that of ``hits``.
        positions: positions of all text blocks together.
    """

    layer: NDArray[np.int64]
    n_layers: int
    largest: _Array
    hits: NDArray[np.int64]
    threshold: float
    positions: int


@dataclass(frozen=True, kw_only=True, eq=False)
class Spikes:
    """The extremes at each layer's dense output writer over all text blocks; shapes (L,).

    Attributes:
        input: the input value that is largest in size, with its sign.
        column: the input feature that it belongs to.
        output: the output value that is largest in size, with its sign.
        row: the output feature, a hidden dimension, that it belongs to.
        largest: largest |output| of each hidden dimension, shape (L, D).
    """

    input: _Array
    column: NDArray[np.int64]
    output: _Array
    row: NDArray[np.int64]
    largest: _Array
