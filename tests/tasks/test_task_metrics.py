"""Scores against plain loops, and weighted scores against those of the samples written out."""

import math
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from robustness.errors import TaskError
from robustness.tasks.metrics import (
    _WEIGHTED,
    OF_CLASSES,
    OF_VALUES,
    bootstrap_drops,
    chosen_metric,
    score,
)
from robustness.tasks.settings import Metric

if TYPE_CHECKING:
    from robustness.checkpoint.task_heads import TaskKind

METRICS: list[Metric] = [*OF_CLASSES, *OF_VALUES]


def _reference(metric: Metric, labels: list[float], found: list[float]) -> float:
    """Straight from the textbook, in plain Python."""
    pairs = list(zip(labels, found, strict=True))
    tp = sum(1 for y, p in pairs if y == p == 1)
    tn = sum(1 for y, p in pairs if y == p == 0)
    fp = sum(1 for y, p in pairs if (y, p) == (0, 1))
    fn = sum(1 for y, p in pairs if (y, p) == (1, 0))
    if metric == "accuracy":
        return sum(1 for y, p in pairs if y == p) / len(pairs)
    if metric == "f1":
        return 2 * tp / (2 * tp + fp + fn) if tp + fp + fn else 0.0
    if metric == "matthews":
        product = (tp + fp) * (tp + fn) * (tn + fp) * (tn + fn)
        return (tp * tn - fp * fn) / math.sqrt(product) if product else 0.0
    if metric == "spearman":
        labels, found = _ranks(labels), _ranks(found)
    mean_x, mean_y = math.fsum(labels) / len(labels), math.fsum(found) / len(found)
    centred = [(x - mean_x, y - mean_y) for x, y in zip(labels, found, strict=True)]
    xx, yy = math.fsum(x * x for x, _ in centred), math.fsum(y * y for _, y in centred)
    constant = len(set(labels)) == 1 or len(set(found)) == 1
    return 0.0 if constant else math.fsum(x * y for x, y in centred) / math.sqrt(xx * yy)


def _ranks(values: list[float]) -> list[float]:
    return [
        sum(other < value for other in values) + (sum(other == value for other in values) + 1) / 2
        for value in values
    ]


def _data(metric: Metric, n: int, seed: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    rng = np.random.default_rng(seed)
    if metric in OF_CLASSES:
        labels = rng.integers(0, 2, n)
        return labels.astype(float), np.where(rng.random(n) < 0.7, labels, 1 - labels).astype(float)
    labels = rng.integers(0, 6, n)  # ties, as in STS-B
    return labels.astype(float), np.round(labels + rng.normal(0, 2, n), 1)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("seed", range(5))
def test_scores_are_those_of_the_textbook(metric: Metric, seed: int) -> None:
    labels, found = _data(metric, 57, seed)
    expected = _reference(metric, labels.tolist(), found.tolist())
    assert score(metric, labels, found) == pytest.approx(expected, abs=1e-12)
    assert -1 < expected < 1


@pytest.mark.parametrize("metric", ["f1", "matthews", "pearson", "spearman"])
def test_constant_predictions_say_nothing(metric: Metric) -> None:
    assert score(metric, np.array([0.0, 1.0, 1.0]), np.zeros(3)) == 0
    weights = np.array([[1.0, 1.0, 1.0], [2.0, 0.0, 1.0]])
    labels, found = np.array([0.0, 1.0, 1.0]), np.zeros(3)
    assert _WEIGHTED[metric](labels, found, weights).tolist() == [0, 0]


@settings(max_examples=60, deadline=None)
@given(
    metric=st.sampled_from(METRICS),
    seed=st.integers(0, 10_000),
    weights=st.lists(st.integers(0, 4), min_size=12, max_size=12).filter(lambda w: sum(w) > 1),
)
def test_weighted_scores_are_those_of_the_sample_written_out(
    metric: Metric, seed: int, weights: list[int]
) -> None:
    labels, found = _data(metric, 12, seed)
    sample = np.repeat(np.arange(12), weights)
    expected = _reference(metric, labels[sample].tolist(), found[sample].tolist())
    (weighted,) = _WEIGHTED[metric](labels, found, np.array([weights], dtype=float))
    assert weighted == pytest.approx(expected, abs=1e-9)


@settings(max_examples=100, deadline=None)
@given(
    metric=st.sampled_from(METRICS),
    pairs=st.lists(st.tuples(st.integers(0, 1), st.integers(0, 1)), min_size=2, max_size=40),
    scale=st.sampled_from([0.1, 1.0, 3.0]),
    weights=st.data(),
)
def test_the_bootstrap_counts_as_the_library_does(
    metric: Metric, pairs: list[tuple[int, int]], scale: float, weights: st.DataObject
) -> None:
    """Whatever the classes or the ties, and where one of them never occurs."""
    labels, found = (np.array(column, dtype=float) for column in zip(*pairs, strict=True))
    if metric in OF_VALUES:
        found = found * scale + labels
    n = len(pairs)
    counts = weights.draw(st.lists(st.integers(0, 3), min_size=n, max_size=n).filter(any))
    sample = np.repeat(np.arange(n), counts)
    (weighted,) = _WEIGHTED[metric](labels, found, np.array([counts], dtype=float))
    assert weighted == pytest.approx(score(metric, labels[sample], found[sample]), abs=1e-9)


@pytest.mark.parametrize(("metric", "package"), [("f1", "scikit-learn"), ("pearson", "scipy")])
def test_a_missing_library_is_named_with_the_extra_that_installs_it(
    metric: Metric, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    kind: TaskKind = "regression" if metric in OF_VALUES else "classification"
    with pytest.raises(TaskError, match=rf"x: the metric {metric} needs {package}: pip install"):
        chosen_metric(metric, kind, usual=None, n_classes=2, what="x")


@pytest.mark.parametrize("metric", METRICS)
def test_bootstrap_drops_scatter_as_resampling_does(metric: Metric) -> None:
    """Mean and spread of the drops are those of an independent loop over resamples."""
    labels, first = _data(metric, 80, 0)
    second = _data(metric, 80, 1)[1]
    drops = bootstrap_drops(metric, labels, first, second, n_resamples=4000, seed=3)
    rng, expected = np.random.default_rng(9), []
    for _ in range(600):
        chosen = rng.integers(0, 80, 80)
        y = labels[chosen].tolist()
        scores = (_reference(metric, y, each[chosen].tolist()) for each in (first, second))
        expected.append(next(scores) - next(scores))
    spread = float(np.std(expected))
    assert drops.shape == (4000,)
    assert float(drops.mean()) == pytest.approx(float(np.mean(expected)), abs=5 * spread / 24)
    assert float(drops.std()) == pytest.approx(spread, rel=0.15)
    again = bootstrap_drops(metric, labels, first, second, n_resamples=4000, seed=3)
    assert np.array_equal(drops, again)


def test_the_metric_follows_from_task_and_policy() -> None:
    def found(choice: str, kind: str, usual: str | None = None, n: int = 2) -> str:
        return chosen_metric(choice, kind, usual=usual, n_classes=n, what="x")  # type: ignore[arg-type]

    assert found("auto", "classification") == "accuracy"
    assert found("auto", "classification", "matthews") == "matthews"
    assert found("auto", "classification", "matthews", 3) == "accuracy"
    assert found("auto", "regression") == "spearman"
    assert found("auto", "similarity", "accuracy") == "spearman"
    assert found("pearson", "regression") == "pearson"
    with pytest.raises(TaskError, match="f1 does not suit similarity; choose one of pearson"):
        found("f1", "similarity")
    with pytest.raises(TaskError, match="is one of two classes, and the checkpoint has 3"):
        found("f1", "classification", n=3)
