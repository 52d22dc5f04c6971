"""Hidden states as plain arrays, and their summaries computed with nothing of the package."""

import math
import statistics
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robustness.outliers.rules.summaries import DenseInputs, LayerOutputs

Array = NDArray[np.float64]
Hidden = list[list[Array]]
"""Per layer, per text block, shape (T, D)."""


def random_hidden(
    seed: int, n_layers: int, lengths: list[int], hidden_size: int, planted: dict[int, float]
) -> Hidden:
    """Gaussian values; a planted dimension gets a value at one position of most text blocks."""
    rng = np.random.default_rng(seed)
    hidden = [[rng.normal(0, 1, (n, hidden_size)) for n in lengths] for _ in range(n_layers)]
    for dim, value in planted.items():
        for layer in hidden:
            for values in layer:
                if rng.random() < 0.7:
                    values[int(rng.integers(len(values))), dim] = value
    return hidden


def summed_up(hidden: Hidden, *, sentence_first: bool = True) -> LayerOutputs:
    """What the package's hooks would report, by whole-array formulas and Python's statistics."""

    def table(function: Any) -> Array:
        return np.array([[function(values) for values in layer] for layer in hidden])

    def kurtosis(values: Array) -> float:
        flat = values.ravel().tolist()
        mean, std = statistics.fmean(flat), statistics.stdev(flat)
        return statistics.fmean((x - mean) ** 4 for x in flat) / (std**4 + 1e-6)

    return LayerOutputs(
        lowest=table(lambda values: values.min(axis=0)),
        highest=table(lambda values: values.max(axis=0)),
        median_abs=table(lambda values: statistics.median(abs(values.ravel()).tolist())),
        mean=table(lambda values: statistics.fmean(values.ravel().tolist())),
        std=table(lambda values: statistics.stdev(values.ravel().tolist())),
        kurtosis=table(kurtosis),
        max_to_median=table(lambda values: statistics.fmean(map(_peak, abs(values).tolist()))),
        mean_square=np.array([(np.concatenate(layer) ** 2).mean(axis=0) for layer in hidden]),
        tokens=np.array([len(values) for values in hidden[0]]),
        sentences=np.array([values[0 if sentence_first else -1] for values in hidden[-1]]),
    )


def _peak(sizes: list[float]) -> float:
    """Largest to median of one position."""
    median = statistics.median(sizes)
    if median > 0:
        return max(sizes) / median
    return math.inf if max(sizes) > 0 else 1.0


def counted(hidden: Hidden, threshold: float) -> DenseInputs:
    """Every layer's hidden states taken for what its dense layers read."""
    whole = [abs(np.concatenate(layer)) for layer in hidden]
    return DenseInputs(
        layer=np.arange(len(hidden)),
        n_layers=len(hidden),
        largest=np.array([values.max(axis=0) for values in whole]),
        hits=np.array([(values >= threshold).sum(axis=0) for values in whole]),
        threshold=threshold,
        positions=len(whole[0]),
    )
