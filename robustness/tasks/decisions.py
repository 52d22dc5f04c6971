"""Deciding how far a task's score drops, from the examples seen so far.

Where the score is a mean over examples, by the confidence sequence that verdicts on perplexity rest
on. An example's drop is 1, 0 or -1: a sample may have met none of the rare examples that make up a
mean, so that the tail guard takes the largest drop that there can be, and not the largest seen.
Where it is not (F1, correlations), by a paired bootstrap at a few sample sizes that are fixed
beforehand and share the error probability. When the examples are used up, the drop of a fixed
ablation is known and decides.
"""

import math
from dataclasses import dataclass, replace
from functools import cached_property
from statistics import NormalDist
from typing import TypedDict, Unpack

import numpy as np
from numpy.typing import ArrayLike, NDArray

from robustness.statistics.decisions import SIDES, Decision, Side
from robustness.statistics.draw_decisions import FactorDecision
from robustness.statistics.sequential import (
    Summary,
    mean_bounds,
    mean_side,
    median_interval,
    median_side,
    summarise,
    values_to_decide,
)
from robustness.tasks.metrics import TWO_CLASSES, Floats, bootstrap_drops, drops_with_more, score
from robustness.tasks.settings import Metric

FIRST_LOOK = 32
FIRST_LOOK_AT_DRAWS = 128
FIRST_LOOK_AT_BLOCKS = 64
"""Draws before the median draw is decided on, where each has a block of examples."""

FIRST_BOOTSTRAP = 256
"""Examples; the next bootstraps come whenever their number has doubled."""

BEYOND_A_QUANTILE = 10
"""Bootstrap samples beyond each end of an interval: with fewer, an end is that of the noise."""

_FEWEST_RESAMPLES = 2_000
_MOST_WEIGHTS = 100_000_000
"""Samples times distinct examples that a bootstrap may draw; seconds."""

_NOTHING_EXCLUDED = (-math.inf, math.inf)


@dataclass(frozen=True, kw_only=True)
class Paired:
    """Labels (class numbers, or values) of the examples seen, and two predictions; shapes (n,).

    The first is the one whose score should be the higher.
    """

    labels: Floats
    first: Floats
    second: Floats

    def drop(self, metric: Metric) -> float:
        """Score of the first minus score of the second predictions."""
        return score(metric, self.labels, self.first) - score(metric, self.labels, self.second)

    def drop_per_example(self) -> Floats:
        """Drops of the accuracy: 1 where only the first prediction is right, -1 the second."""
        right = [(each == self.labels).astype(np.float64) for each in (self.first, self.second)]
        drops: Floats = right[0] - right[1]
        return drops

    @property
    def answers(self) -> tuple[Floats, Floats, Floats]:
        """Labels and both predictions, as the bootstrap takes them."""
        return self.labels, self.first, self.second

    @cached_property
    def n_distinct(self) -> int:
        """Different triples of label and predictions."""
        return int(np.unique(np.stack(self.answers), axis=1).shape[1])

    def part(self, rows: NDArray[np.int64] | slice) -> "Paired":
        """These examples alone."""
        return Paired(labels=self.labels[rows], first=self.first[rows], second=self.second[rows])


def bounded(values: ArrayLike, bound: float, looks: ArrayLike | None = None) -> Summary:
    """A sample of numbers from a population within ±bound, whatever was seen of it.

    ``values`` and ``looks`` are those of :func:`robustness.statistics.sequential.summarise`.
    """
    sample = summarise(values, looks)
    most = np.full_like(sample.mean, bound)
    return replace(sample, minimum=-most, maximum=most)


def decide_mean(
    drops: ArrayLike, *, threshold: float, alpha: float, minimum: int = FIRST_LOOK, exhausted: bool
) -> Decision:
    """Compare the mean drop with a threshold.

    Drops are per example, from -1 to 1, shape (n,), in the order in which they were seen. Before a
    ``minimum`` of them nothing is excluded; they are ``exhausted`` if these are all, of a fixed
    ablation. It errs with probability ``alpha`` over all looks.
    """
    values = np.asarray(drops, dtype=np.float64)
    n, mean = len(values), math.fsum(values) / len(values)
    if exhausted:
        return _exact(mean, threshold, n)
    interval = _NOTHING_EXCLUDED
    if n >= minimum:
        lower, upper = mean_bounds(bounded(values, 1.0), alpha)
        interval = (float(lower), float(upper))
    return _estimate(mean, interval, threshold, n)


class FactorRule(TypedDict):
    """What two drops are asked.

    ``bound`` is the largest drop there can be, where drops are those of single examples;
    ``joint_drop`` is the fixed ablation's on the whole task, once that is known.
    """

    factor: float
    alpha: float
    bound: float | None
    joint_drop: float | None


def decide_factor(
    joint: ArrayLike, control: ArrayLike, **rule: Unpack[FactorRule]
) -> FactorDecision:
    """Ask whether a joint drop is positive and at least ``factor`` times the mean control's.

    As for perplexity, on joint - factor * control of each draw, shapes (n,), on the same examples.
    """
    fixed, random = np.asarray(joint, dtype=np.float64), np.asarray(control, dtype=np.float64)
    side: Side | None = None
    if rule["joint_drop"] is not None and rule["joint_drop"] <= 0:
        side = "below"
    elif len(fixed) >= FIRST_LOOK_AT_DRAWS:
        samples = _samples_for_factor(fixed, random, rule)
        side = SIDES[min(int(mean_side(sample, rule["alpha"])) for sample in samples)]
    return FactorDecision.of(side, fixed, random)


def draws_for_factor(
    joint: ArrayLike, control: ArrayLike, *, optimism: float = 0.0, **rule: Unpack[FactorRule]
) -> float:
    """Draws that :func:`decide_factor` would need if they went on as they began.

    Its means may lie farther from 0 than they were seen to, by ``optimism`` standard errors.
    """
    fixed, random = np.asarray(joint, dtype=np.float64), np.asarray(control, dtype=np.float64)
    samples = _samples_for_factor(fixed, random, rule)
    return max(values_to_decide(sample, rule["alpha"], optimism=optimism) for sample in samples)


def _samples_for_factor(fixed: Floats, random: Floats, rule: FactorRule) -> list[Summary]:
    """What must be told from 0: the comparison, and the joint drop as long as it is not known."""
    factor, bound = rule["factor"], rule["bound"]
    samples = [(fixed - factor * random, 1 + factor)]
    samples += [(fixed, 1.0)] if rule["joint_drop"] is None else []
    return [summarise(s) if bound is None else bounded(s, widest * bound) for s, widest in samples]


def bootstrap_looks(n_examples: int) -> tuple[int, ...]:
    """Sample sizes at which a bootstrap decides, before the examples are used up."""
    looks, size = [], FIRST_BOOTSTRAP
    while size < n_examples:
        looks.append(size)
        size *= 2
    return tuple(looks)


def decide_score(
    paired: Paired,
    metric: Metric,
    *,
    threshold: float,
    alpha: float,
    n_examples: int,
    seed: int,
) -> Decision:
    """Compare the drop of a score that is no mean over examples with a threshold.

    The interval is that of the bootstrap (:func:`bootstrap_interval`), each end moved outwards by
    the tail guard (:func:`guarded`). Where a bootstrap of the allowed size cannot resolve the error
    probability, the look excludes nothing: a later one decides, at the latest the end.
    ``alpha`` is the error probability over all looks at the task's ``n_examples``, each way.
    """
    n, drop = len(paired.labels), paired.drop(metric)
    if n >= n_examples:
        return _exact(drop, threshold, n)
    looks = bootstrap_looks(n_examples)
    interval = None
    if n in looks:
        level = alpha / len(looks)
        interval = bootstrap_interval(paired, metric, alpha=level, seed=seed)
        if interval is not None:
            interval = guarded(interval, paired, metric, alpha=level)
    return _estimate(drop, interval or _NOTHING_EXCLUDED, threshold, n)


def bootstrap_interval(
    paired: Paired, metric: Metric, *, alpha: float, seed: int
) -> tuple[float, float] | None:
    """Of the drop, each end with error probability ``alpha``; ``None`` where that is too small.

    Each end lies as far out as both the bootstrap's percentile and a normal distribution with the
    bootstrap's standard deviation do: the first follows the skewness of correlations, the second
    does not end where the samples end. It takes ten samples beyond each end, 10/alpha in all.
    """
    n_resamples = max(_FEWEST_RESAMPLES, math.ceil(BEYOND_A_QUANTILE / alpha))
    if n_resamples * paired.n_distinct > _MOST_WEIGHTS:
        return None
    drops = bootstrap_drops(metric, *paired.answers, n_resamples=n_resamples, seed=seed)
    margin = -NormalDist().inv_cdf(alpha) * float(drops.std(ddof=1))
    drop = paired.drop(metric)
    beyond = math.floor(alpha * n_resamples)
    ordered = np.sort(drops)
    return (
        min(float(ordered[beyond - 1]), drop - margin),
        max(float(ordered[-beyond]), drop + margin),
    )


def guarded(
    interval: tuple[float, float], paired: Paired, metric: Metric, *, alpha: float
) -> tuple[float, float]:
    """An interval with each end moved outwards by the tail guard.

    A sample of n examples can have missed a share of ln(1/alpha)/n of the population with
    probability ``alpha``; a bootstrap of it has missed them, too. The guard is how far the drop
    moves if that many examples of the kind that moves it most are added: of classes, any that there
    can be; of values, any that were seen, as for likelihoods.
    """
    drop = paired.drop(metric)
    missed, unseen = -math.log(alpha), metric in TWO_CLASSES
    moved = drops_with_more(metric, *paired.answers, more=missed, unseen=unseen)
    return (
        interval[0] - max(0.0, drop - float(moved.min())),
        interval[1] + max(0.0, float(moved.max()) - drop),
    )


def decide_median_drop(drops: ArrayLike, *, threshold: float, alpha: float) -> Decision:
    """Compare the median draw's drop with a threshold, by the exact sign test.

    It errs with probability ``alpha`` in each direction, over all looks. A draw exactly at the
    threshold counts against either decision.
    """
    values = np.asarray(drops, dtype=np.float64)
    n, middle = len(values), float(np.median(values))
    interval, side = _NOTHING_EXCLUDED, None
    if n >= FIRST_LOOK_AT_BLOCKS:
        interval = median_interval(values, alpha=alpha)
        side = SIDES[int(median_side(values - threshold, alpha=alpha))]
    return Decision(side=side, measured=middle, interval=_finite(interval), seen=n, draws=n)


def _exact(drop: float, threshold: float, n: int) -> Decision:
    side: Side = "above" if drop >= threshold else "below"
    return Decision(side=side, measured=drop, interval=None, exact=True, seen=n)


def _estimate(drop: float, interval: tuple[float, float], threshold: float, n: int) -> Decision:
    side: Side | None = None
    if interval[0] > threshold:
        side = "above"
    elif interval[1] < threshold:
        side = "below"
    return Decision(side=side, measured=drop, interval=_finite(interval), exact=False, seen=n)


def _finite(interval: tuple[float, float]) -> tuple[float, float] | None:
    """An interval of drops; ``None`` where it has no end on one side, and so says nothing yet."""
    return interval if all(map(math.isfinite, interval)) else None
