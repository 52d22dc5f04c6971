"""Error rates at the exact boundary, where alone they say something; and what is exact."""

import itertools
import math
from collections import Counter
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from pydantic import TypeAdapter
from scipy import stats

from robustness.statistics.decisions import Decision
from robustness.statistics.sequential import mean_side
from robustness.tasks.decisions import (
    FIRST_BOOTSTRAP,
    Paired,
    bootstrap_interval,
    bootstrap_looks,
    bounded,
    decide_factor,
    decide_mean,
    decide_median_drop,
    decide_score,
    draws_for_factor,
    guarded,
)
from robustness.tasks.metrics import score
from robustness.tasks.settings import Metric

LOOKS = np.array([32, *range(48, 1025, 16)])


def _simulated(values: list[float], shares: list[float], runs: int) -> NDArray[np.float64]:
    rng = np.random.default_rng(0)
    return rng.choice(np.array(values, dtype=np.float32), p=shares, size=(runs, 1024))


@pytest.mark.parametrize("alpha", [0.05, 0.01])
@pytest.mark.parametrize(
    ("values", "shares"),
    [
        ([0, 1], [0.98, 0.02]),  # rare flips: a sample may have met none
        ([0, 1, -1], [0.9, 0.06, 0.04]),
        ([0, 1, -1], [0.4, 0.31, 0.29]),
        ([0, 1], [0.5, 0.5]),
        ([0, -1, 1], [0.96, 0.01, 0.03]),
    ],
)
def test_a_mean_drop_at_the_threshold_is_decided_wrongly_no_more_often_than_alpha(
    values: list[float], shares: list[float], alpha: float
) -> None:
    threshold = math.fsum(v * p for v, p in zip(values, shares, strict=True))
    drops = _simulated(values, shares, 4000)
    side = mean_side(
        bounded(drops - threshold, 1.0 - abs(threshold), LOOKS), alpha
    )  # bounds as seen from the threshold; narrower than those of the drops on one side
    for direction in (1, -1):
        assert float((side == direction).any(axis=1).mean()) <= alpha


def test_a_sample_that_met_no_rare_flip_is_not_taken_for_a_population_without() -> None:
    """The observed range would decide at once: 2 % of flips are missed by 128 examples in 7 %."""
    alpha, drops = 0.01, np.zeros(128)
    assert int(mean_side(bounded(drops - 0.02, 1.0), alpha)) == 0
    look = decide_mean(drops, threshold=0.02, alpha=alpha, exhausted=False)
    assert look.side is None
    assert look.interval == pytest.approx((-0.036, 0.036), abs=1e-3)  # ln(100) / 128
    later = decide_mean(np.zeros(256), threshold=0.02, alpha=alpha, exhausted=False)
    assert later.side == "below"


def test_the_end_of_the_task_is_exact_and_includes_the_threshold() -> None:
    drops = np.array([1.0] * 3 + [0.0] * 57)
    at = decide_mean(drops, threshold=0.05, alpha=0.01, exhausted=True)
    assert (at.side, at.exact, at.interval, at.measured) == ("above", True, None, 0.05)
    assert decide_mean(drops, threshold=0.051, alpha=0.01, exhausted=True).side == "below"


def test_nothing_is_decided_before_the_first_look() -> None:
    look = decide_mean(np.ones(31), threshold=0.05, alpha=0.01, exhausted=False)
    assert look.side is None
    assert look.interval is None
    first = decide_mean(np.ones(128), threshold=0.05, alpha=0.01, exhausted=False)
    assert first.side == "above"


def test_bootstraps_come_at_sizes_that_are_fixed_beforehand() -> None:
    assert bootstrap_looks(256) == ()
    assert bootstrap_looks(257) == (256,)
    assert bootstrap_looks(1500) == (256, 512, 1024)
    assert all(n % 16 == 0 for n in bootstrap_looks(100_000))  # where chunks end


N_POPULATION = 40_000


def _population(name: str) -> tuple[Metric, Paired]:
    """Labels and two predictions, 40,000 examples."""
    rng = np.random.default_rng(5)
    n = N_POPULATION
    metric = TypeAdapter[Metric](Metric).validate_python(name.split()[0])
    if metric in ("f1", "matthews"):
        labels = (rng.random(n) < 0.68).astype(float)  # as in MRPC
        right = rng.random((2, n)) < [[0.85], [0.75]]
        if "rare" in name:  # only one in a hundred answers changes, from right to wrong
            right[1] = right[0] & (rng.random(n) > 0.01)
        predictions = np.where(right, labels, 1 - labels)
        return metric, Paired(labels=labels, first=predictions[0], second=predictions[1])
    labels = rng.integers(0, 26, n) / 5
    noise = rng.normal(0, 1, (2, n))
    first = labels + noise[0]
    second = labels + 2 * noise.sum(0)
    if "rare" in name:
        second = np.where(rng.random(n) < 0.05, 5 - labels, first + 0.3 * noise[1])
    return metric, Paired(labels=labels, first=first, second=second)


def _errors(name: str, alpha: float, runs: int) -> Counter[str]:
    """Wrong decisions at the population's own drop, at the first look."""
    metric, population = _population(name)
    truth = population.drop(metric)
    rng = np.random.default_rng(7)
    errors = Counter[str]()
    for run in range(runs):
        sample = population.part(rng.integers(0, N_POPULATION, FIRST_BOOTSTRAP))
        look = decide_score(
            sample,
            metric,
            threshold=truth,
            alpha=alpha,
            n_examples=2 * FIRST_BOOTSTRAP,  # one look before the end
            seed=run,
        )
        errors[look.side or "open"] += 1
    return errors


def _most(alpha: float, runs: int) -> int:
    """Errors that are exceeded with a probability of 1 % if each run errs with alpha."""
    return int(stats.binom.ppf(0.99, runs, alpha))


@pytest.mark.parametrize("alpha", [0.05, 0.01])
@pytest.mark.parametrize("name", ["f1", "matthews", "f1 rare", "matthews rare"])
def test_a_score_at_the_threshold_is_decided_wrongly_no_more_often_than_alpha(
    name: str, alpha: float
) -> None:
    errors = _errors(name, alpha, 250)
    assert max(errors["above"], errors["below"]) <= _most(alpha, 250)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "alpha", "runs"),
    [
        *((name, 0.05, 2000) for name in ("spearman", "spearman rare", "pearson", "pearson rare")),
        *((name, 0.01, 2000) for name in ("spearman", "spearman rare", "pearson", "pearson rare")),
        *((name, 0.01, 2000) for name in ("f1", "matthews", "f1 rare", "matthews rare")),
        *(
            pytest.param(name, alpha, 20_000, marks=pytest.mark.long)
            for name in ("f1", "matthews", "f1 rare", "matthews rare")
            for alpha in (0.01, 0.001)
        ),
    ],
)
def test_so_it_is_in_many_runs_and_at_small_error_probabilities(
    name: str, alpha: float, runs: int
) -> None:
    errors = _errors(name, alpha, runs)
    assert max(errors["above"], errors["below"]) <= _most(alpha, runs)


def test_without_the_guard_rare_changes_would_be_missed() -> None:
    """7.6 % of samples hold none of 1 % changed answers, and their bootstrap has no width."""
    metric, population = _population("matthews rare")
    truth, missed = population.drop(metric), 0
    rng = np.random.default_rng(7)
    for run in range(250):
        sample = population.part(rng.integers(0, N_POPULATION, FIRST_BOOTSTRAP))
        plain = bootstrap_interval(sample, metric, alpha=0.01, seed=run)
        assert plain is not None
        missed += plain[1] < truth
    assert missed > _most(0.01, 250)


@pytest.mark.parametrize("name", ["f1", "matthews", "spearman", "pearson"])
def test_the_guard_adds_the_examples_that_move_the_drop_most(name: str) -> None:
    metric, population = _population(name)
    sample = population.part(slice(0, 60))
    drop = sample.drop(metric)
    columns = (sample.labels, sample.first, sample.second)
    kinds: set[tuple[float, ...]] = set(zip(*columns, strict=True))
    assert sample.n_distinct == len(kinds)
    if metric in ("f1", "matthews"):
        kinds |= set(itertools.product((0.0, 1.0), repeat=3))
    assert sample.n_distinct == len(
        set(zip(sample.labels, sample.first, sample.second, strict=True))
    )
    moved = []
    for kind in kinds:
        columns = (sample.labels, sample.first, sample.second)
        longer = [
            np.append(column, [value] * 5) for column, value in zip(columns, kind, strict=True)
        ]
        labels, first, second = longer
        moved.append(score(metric, labels, first) - score(metric, labels, second))
    low, high = guarded((-0.5, 0.5), sample, metric, alpha=math.exp(-5))
    assert low == pytest.approx(-0.5 - (drop - min(moved)))
    assert high == pytest.approx(0.5 + (max(moved) - drop))


def test_a_bootstrap_that_cannot_resolve_its_error_probability_decides_nothing() -> None:
    metric, population = _population("spearman")
    first = population.part(slice(0, FIRST_BOOTSTRAP))

    def looked(alpha: float, n: int) -> Decision:
        seen = population.part(slice(0, n))
        return decide_score(seen, metric, threshold=-0.9, alpha=alpha, n_examples=500, seed=1)

    assert looked(1e-3, FIRST_BOOTSTRAP).side == "above"
    assert bootstrap_interval(first, metric, alpha=1e-9, seed=1) is None
    early = looked(1e-9, FIRST_BOOTSTRAP)
    assert (early.side, early.interval) == (None, None)
    end = looked(1e-9, 500)
    assert (end.side, end.exact) == ("above", True)


def test_ten_samples_lie_beyond_each_end_of_a_bootstrap(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def drops(*_: Any, n_resamples: int, **__: Any) -> NDArray[np.float64]:
        asked.append(n_resamples)
        return np.random.default_rng(1).permutation(n_resamples) / n_resamples

    monkeypatch.setattr("robustness.tasks.decisions.bootstrap_drops", drops)
    metric, population = _population("matthews")
    sample = population.part(slice(0, FIRST_BOOTSTRAP))
    interval = bootstrap_interval(sample, metric, alpha=1e-4, seed=1)
    assert interval is not None
    assert asked == [100_000]
    drop, width = sample.drop(metric), 3.719 / 12**0.5  # of uniform numbers; 3.719 is z(1e-4)
    assert interval[0] == pytest.approx(min(9e-5, drop - width), abs=1e-3)
    assert interval[1] == pytest.approx(max(1 - 10e-5, drop + width), abs=1e-3)


def test_a_score_is_decided_at_its_looks_and_exactly_at_the_end() -> None:
    _, population = _population("spearman")
    sample = population.part(slice(0, 300))
    drop = score("spearman", sample.labels, sample.first) - score(
        "spearman", sample.labels, sample.second
    )

    def looked(seen: Paired, threshold: float, n_examples: int) -> Decision:
        return decide_score(
            seen, "spearman", threshold=threshold, alpha=0.01, n_examples=n_examples, seed=1
        )

    between = looked(sample, 0.0, 1500)
    assert (between.side, between.interval) == (None, None)
    first = sample.part(slice(0, 256))
    look = looked(first, 0.05, 1500)
    assert look.side == "above"
    assert look.interval is not None
    assert look.interval[0] > 0.05
    again = looked(first, 0.05, 1500)
    assert look == again
    end = looked(sample, drop, 300)
    assert (end.side, end.exact, end.measured) == ("above", True, drop)


def test_the_median_draw_needs_64_draws() -> None:
    small = np.full(64, 0.001)
    assert decide_median_drop(small[:63], threshold=0.02, alpha=0.001).side is None
    look = decide_median_drop(small, threshold=0.02, alpha=0.001)
    assert (look.side, look.measured) == ("below", 0.001)
    assert decide_median_drop(small + 0.1, threshold=0.02, alpha=0.001).side == "above"


@pytest.mark.parametrize(
    ("joint", "control", "whole", "side"),
    [
        (1.0, 0.0, 1.0, "above"),
        (0.0, 0.0, 0.0, "below"),  # no drop at all is not 5 times none
        (0.0, 0.0, -0.1, "below"),
        (0.3, 0.3, 0.3, "below"),
        (1.0, 0.2, 1.0, None),  # exactly five times
    ],
)
def test_the_factor_needs_a_drop_and_five_times_the_controls(
    joint: float, control: float, whole: float, side: str | None
) -> None:
    def flips(share: float) -> NDArray[np.float64]:
        return np.array([float(n % 10 < round(10 * share)) for n in range(2000)])

    look = decide_factor(
        flips(joint), flips(control), factor=5.0, alpha=0.01, bound=1.0, joint_drop=whole
    )
    assert look.side == side
    assert look.joint_mean == pytest.approx(joint)
    assert look.control_mean == pytest.approx(control)


def test_the_factor_needs_128_draws() -> None:
    ones, none = np.ones(127), np.zeros(127)
    levels = {"factor": 5.0, "alpha": 0.01, "bound": None, "joint_drop": 1.0}
    assert decide_factor(ones, none, **levels).side is None  # type: ignore[arg-type]
    more = np.ones(128), np.zeros(128)
    assert decide_factor(*more, **levels).side == "above"  # type: ignore[arg-type]


def _flips(share: float, cost: float, n: int, seed: int) -> NDArray[np.float64]:
    """Drops of which a share is not 0, and whose mean is near ``cost``."""
    lost = (share + cost) / 2
    rng = np.random.default_rng(seed)
    return rng.choice([0.0, 1.0, -1.0], p=[1 - share, lost, share - lost], size=n)


def test_how_many_draws_a_factor_takes_is_said_before_they_are_spent() -> None:
    """Of a fine-tuned MRPC: 0.015 lost together, 0.002 at random, to be told five times as much."""
    rule: dict[str, Any] = {"factor": 5.0, "alpha": 0.002, "bound": 1.0, "joint_drop": 0.015}
    joint, control = _flips(0.04, 0.015, 4096, seed=1), _flips(0.03, 0.002, 4096, seed=2)
    assert decide_factor(joint, control, **rule).side is None
    assert draws_for_factor(joint, control, **rule, optimism=2.0) > 8192  # hopeless
    large = _flips(0.3, 0.25, 4096, seed=3)
    for n in (128, 256):
        needed = draws_for_factor(large[:n], control[:n], **{**rule, "joint_drop": 0.25})
        assert 64 < needed < 2048
    assert decide_factor(large, control, **rule).side == "above"


@pytest.mark.parametrize("cost", [0.1, 0.3])
def test_the_estimate_of_draws_is_about_what_a_decision_took(cost: float) -> None:
    rule: dict[str, Any] = {"factor": 5.0, "alpha": 0.01, "bound": 1.0, "joint_drop": cost}
    estimates, taken = [], []
    for seed in range(40):
        joint = _flips(cost + 0.05, cost, 8192, seed=seed)
        control = _flips(0.03, 0.002, 8192, seed=100 + seed)
        sizes = range(128, 8193, 16)
        first = (n for n in sizes if decide_factor(joint[:n], control[:n], **rule).side)
        taken.append(next(first))
        estimates.append(draws_for_factor(joint[:256], control[:256], **rule))
    assert np.median(estimates) == pytest.approx(np.median(taken), rel=0.5)


def test_equal_drops_are_never_told_apart() -> None:
    rule: dict[str, Any] = {"factor": 1.0, "alpha": 0.01, "bound": 1.0, "joint_drop": 0.1}
    drops = _flips(0.2, 0.1, 512, seed=1)
    assert draws_for_factor(drops, drops, **rule) == math.inf
