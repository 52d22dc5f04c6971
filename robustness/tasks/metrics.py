"""Scores of predictions, and their bootstrap distribution.

The scores are those of ``evaluate``, by the libraries that it asks, too: accuracy, F1 of the class
numbered 1 and Matthews' correlation by scikit-learn, Pearson's and Spearman's by scipy. Where a
correlation is not defined, because labels or predictions are all the same, it counts as 0: such
predictions say nothing. No library scores many weighted samples at a time, as the bootstrap needs
it: those sums are this module's, and tested to be the libraries'.
"""

import importlib.util
from collections.abc import Callable, Iterator, Mapping
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robustness.checkpoint.task_heads import TaskKind
from robustness.errors import TaskError
from robustness.tasks.settings import Metric, MetricChoice

Floats = NDArray[np.float64]

OF_CLASSES: tuple[Metric, ...] = ("accuracy", "f1", "matthews")
OF_VALUES: tuple[Metric, ...] = ("pearson", "spearman")
TWO_CLASSES: tuple[Metric, ...] = ("f1", "matthews")
MEANS: tuple[Metric, ...] = ("accuracy",)
"""Metrics that are means over examples, so that single examples can be compared."""

_SLICE = 2_000_000
"""Weights that exist at a time."""


def chosen_metric(
    choice: MetricChoice, kind: TaskKind, *, usual: Metric | None, n_classes: int, what: str
) -> Metric:
    """The metric of a task, called ``what``: the policy's choice, or the data set's ``usual`` one.

    A TaskError says that it does not suit the task, or needs a package that is not installed.
    """
    fitting = OF_CLASSES if kind == "classification" else OF_VALUES
    if choice == "auto":
        metric = usual if usual in fitting else fitting[0 if kind == "classification" else -1]
        assert metric is not None
        if metric in TWO_CLASSES and n_classes != 2:
            metric = "accuracy"
    else:
        metric = choice
    if metric not in fitting:
        raise TaskError(
            f"{what}: the metric {metric} does not suit {kind}; choose one of {', '.join(fitting)}"
        )
    if metric in TWO_CLASSES and n_classes != 2:
        raise TaskError(
            f"{what}: the metric {metric} is one of two classes, and the checkpoint has "
            f"{n_classes}; choose accuracy"
        )
    module, package = ("sklearn", "scikit-learn") if metric in OF_CLASSES else ("scipy", "scipy")
    if importlib.util.find_spec(module) is None:
        raise TaskError(
            f"{what}: the metric {metric} needs {package}: pip install 'pytest-robustness[tasks]'"
        )
    return metric


def score(metric: Metric, labels: Floats, predictions: Floats) -> float:
    """The score of predictions, both of shape (n,); of classes, their numbers."""
    if metric not in ("accuracy", "f1") and (_constant(labels) or _constant(predictions)):
        return 0.0
    if metric in OF_VALUES:
        from scipy import stats

        correlate: Any = stats.spearmanr if metric == "spearman" else stats.pearsonr
        return float(correlate(labels, predictions).statistic)
    from sklearn import metrics

    if metric == "f1":
        return float(metrics.f1_score(labels == 1, predictions == 1, zero_division=0.0))
    of_all = metrics.accuracy_score if metric == "accuracy" else metrics.matthews_corrcoef
    return float(of_all(labels, predictions))


def _constant(values: Floats) -> bool:
    return bool(np.all(values == values[0]))


def bootstrap_drops(
    metric: Metric, labels: Floats, first: Floats, second: Floats, *, n_resamples: int, seed: int
) -> Floats:
    """Score of ``first`` minus score of ``second`` on samples drawn with replacement.

    Paired: a sample has the same of the n examples for both. Shape (n_resamples,).
    """
    cells, counts = np.unique(np.stack([labels, first, second]), axis=1, return_counts=True)
    samples = _weights(counts, n_resamples, np.random.default_rng(seed))
    return np.concatenate([_drops(metric, cells, weights) for weights in samples])


def drops_with_more(
    metric: Metric, labels: Floats, first: Floats, second: Floats, *, more: float, unseen: bool
) -> Floats:
    """Drops if ``more`` examples of one kind were added, which need not be whole, for every kind.

    A kind is a triple of label and two predictions; ``unseen`` ones are all triples of the classes
    0 and 1. Shape (kinds,).
    """
    cells, counts = np.unique(np.stack([labels, first, second]), axis=1, return_counts=True)
    if unseen:
        every = np.array(list(product((0.0, 1.0), repeat=3))).T
        cells, place = np.unique(
            np.concatenate([cells, every], axis=1), axis=1, return_inverse=True
        )
        whole = np.concatenate([counts, np.zeros(every.shape[1], dtype=np.int64)])
        counts = np.bincount(place.ravel(), weights=whole)
    kinds = len(counts)
    size = max(1, _SLICE // kinds)
    drops = []
    for start in range(0, kinds, size):
        added = np.arange(start, min(kinds, start + size))
        weights = np.tile(counts.astype(np.float64), (len(added), 1))
        weights[np.arange(len(added)), added] += more
        drops.append(_drops(metric, cells, weights))
    return np.concatenate(drops)


def _weights(
    counts: NDArray[np.int64], n_resamples: int, generator: np.random.Generator
) -> Iterator[Floats]:
    """How often each distinct example is drawn, in slices of shape (samples, cells)."""
    n = int(counts.sum())
    size = max(1, _SLICE // max(len(counts), 1))
    for start in range(0, n_resamples, size):
        samples = min(size, n_resamples - start)
        if len(counts) * 4 < n:  # few cells, as of classes: draw their counts at once
            yield generator.multinomial(n, counts / n, size=samples).astype(np.float64)
            continue
        cell = np.repeat(np.arange(len(counts)), counts)
        drawn = cell[generator.integers(0, n, size=(samples, n))]
        drawn += np.arange(samples)[:, None] * len(counts)
        flat = np.bincount(drawn.ravel(), minlength=samples * len(counts))
        yield flat.reshape(samples, len(counts)).astype(np.float64)


def _drops(metric: Metric, cells: Floats, weights: Floats) -> Floats:
    """Drops in samples in which the cells occur ``weights`` times, shape (samples,)."""
    labels, first, second = cells
    scored = _WEIGHTED[metric]
    return scored(labels, first, weights) - scored(labels, second, weights)


def _weighted_accuracy(labels: Floats, predictions: Floats, weights: Floats) -> Floats:
    accuracy: Floats = weights @ (labels == predictions) / weights.sum(1)
    return accuracy


def _weighted_f1(labels: Floats, predictions: Floats, weights: Floats) -> Floats:
    hits = weights @ ((labels == 1) & (predictions == 1))
    named = weights @ ((labels == 1) * 1.0 + (predictions == 1))
    f1: Floats = np.divide(2 * hits, named, out=np.zeros_like(hits), where=named > 0)
    return f1


def _weighted_pearson(labels: Floats, predictions: Floats, weights: Floats) -> Floats:
    # Around a value of their own, so that equal values have a variance of exactly 0.
    x, y = labels - labels[0], predictions - predictions[0]
    n = weights.sum(1)
    mean_x, mean_y = weights @ x / n, weights @ y / n
    covariance = weights @ (x * y) / n - mean_x * mean_y
    return _correlation(covariance, weights @ x**2 / n - mean_x**2, weights @ y**2 / n - mean_y**2)


def _weighted_spearman(labels: Floats, predictions: Floats, weights: Floats) -> Floats:
    x, y = _weighted_ranks(labels, weights), _weighted_ranks(predictions, weights)
    n = weights.sum(1)
    middle = ((n + 1) / 2)[:, None]  # the mean of all ranks, ties or not
    x, y = x - middle, y - middle
    return _correlation(*((weights * p).sum(1) / n for p in (x * y, x * x, y * y)))


def _weighted_ranks(values: Floats, weights: Floats) -> Floats:
    """Ranks, ties with their mean rank, shape (samples, n)."""
    _, group = np.unique(values, return_inverse=True)
    order = np.argsort(group, kind="stable")
    starts = np.flatnonzero(np.diff(group[order], prepend=-1))
    per_group = np.add.reduceat(weights[:, order], starts, axis=1)  # (samples, groups)
    middle = per_group.cumsum(1) - per_group / 2 + 0.5
    ranks: Floats = middle[:, group]
    return ranks


def _correlation(covariance: Floats, variance_x: Floats, variance_y: Floats) -> Floats:
    product = np.maximum(variance_x, 0) * np.maximum(variance_y, 0)
    correlation: Floats = np.divide(
        covariance, np.sqrt(product), out=np.zeros_like(covariance), where=product > 1e-24
    )
    return correlation


_WEIGHTED: Mapping[Metric, Callable[[Floats, Floats, Floats], Floats]] = {
    "accuracy": _weighted_accuracy,
    "f1": _weighted_f1,
    "matthews": _weighted_pearson,  # of two classes it is the correlation of their numbers
    "pearson": _weighted_pearson,
    "spearman": _weighted_spearman,
}
