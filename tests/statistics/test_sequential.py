"""The confidence sequence and the sign test, against plain loops and exact enumeration."""

from __future__ import annotations

import math
import statistics
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy.special import betainc, betaln

from robustness.statistics.sequential import (
    blind_share,
    mean_bounds,
    mean_side,
    median_interval,
    median_side,
    ratio_interval,
    ratio_side,
    sign_limit,
    sign_log_e_values,
    summarise,
)

alphas = st.sampled_from([0.5, 0.05, 0.01, 0.001, 1e-5])
nats = st.floats(-50, 50, allow_nan=False).map(lambda value: round(value, 3))
samples = st.lists(nats, min_size=2, max_size=60)
streams = st.lists(st.tuples(nats, st.integers(1, 40)), min_size=32, max_size=80)


def plain_bounds(values: list[float], alpha: float) -> tuple[float, float]:
    """The formulas of the specification, one after the other."""
    n = len(values)
    mean = math.fsum(values) / n
    s = statistics.stdev(values)
    rho2 = (-2 * math.log(alpha) + math.log(-2 * math.log(alpha)) + 1) / 64
    w = s * math.sqrt(
        2 * (n * rho2 + 1) / (n**2 * rho2) * math.log(math.sqrt(n * rho2 + 1) / alpha)
    )
    g_plus = (max(values) - mean) * math.log(1 / alpha) / n
    g_minus = (mean - min(values)) * math.log(1 / alpha) / n
    return mean - w - g_minus, mean + w + g_plus


@given(values=samples, alpha=alphas)
def test_bounds_of_a_mean_are_those_of_the_specification(values: list[float], alpha: float) -> None:
    assert mean_bounds(summarise(values), alpha) == pytest.approx(
        plain_bounds(values, alpha), rel=1e-9, abs=1e-9
    )


@given(values=samples, alpha=alphas, slack=st.floats(0, 20))
def test_a_mean_is_decided_only_when_a_bound_clears_zero_and_the_slack(
    values: list[float], alpha: float, slack: float
) -> None:
    lower, upper = plain_bounds(values, alpha)
    assume(min(abs(lower - slack), abs(upper + slack)) > 1e-6)
    expected = 1 if lower > slack else -1 if upper < -slack else 0
    assert mean_side(summarise(values), alpha, slack=slack) == expected


@given(values=samples, cuts=st.sets(st.integers(1, 60), min_size=1))
def test_summaries_at_several_looks_are_those_of_the_beginnings(
    values: list[float], cuts: set[int]
) -> None:
    looks = sorted(cut for cut in cuts if cut <= len(values))
    assume(looks)
    together = summarise(np.array([values, values[::-1]]), looks)
    for row, order in enumerate((values, values[::-1])):
        for column, n in enumerate(looks):
            alone = summarise(order[:n])
            for name in ("mean", "std", "minimum", "maximum"):
                one = getattr(together, name)[row, column]
                assert one == pytest.approx(float(getattr(alone, name)), rel=1e-9, abs=1e-9)


def test_equal_values_have_no_width_at_all() -> None:
    lower, upper = mean_bounds(summarise([0.1] * 37), 0.01)
    assert lower == upper == 0.1


def test_one_value_bounds_nothing() -> None:
    lower, upper = map(float, mean_bounds(summarise([5.0]), 0.01))
    assert (lower, upper) == (-math.inf, math.inf)


@pytest.mark.parametrize("sign", [1, -1])
def test_the_tail_guard_holds_back_what_the_variance_alone_would_decide(sign: int) -> None:
    values = sign * np.array([-1.0] * 60 + [-0.9] * 3 + [2.0])
    sample = summarise(values)
    rho2 = (-2 * math.log(0.01) + math.log(-2 * math.log(0.01)) + 1) / 64
    scale = 2 * (64 * rho2 + 1) / (64**2 * rho2) * math.log(math.sqrt(64 * rho2 + 1) / 0.01)
    lower, upper = mean_bounds(sample, 0.01)
    far, near = (upper, lower) if sign > 0 else (-lower, -upper)
    mean, width = sign * float(sample.mean), float(sample.std) * math.sqrt(scale)
    assert far == pytest.approx(mean + width + (2 - mean) * math.log(100) / 64)
    assert near == pytest.approx(mean - width - (mean + 1) * math.log(100) / 64)


@pytest.mark.parametrize("alpha", [0.0, -0.1, 0.51, 1.0, math.nan])
def test_an_impossible_error_probability_is_refused(alpha: float) -> None:
    with pytest.raises(ValueError, match="error probability"):
        mean_bounds(summarise([1.0, 2.0]), alpha)
    with pytest.raises(ValueError, match="error probability"):
        sign_limit(64, alpha)


@given(stream=streams, alpha=alphas, log_threshold=st.floats(-3, 3), slack=st.floats(0, 5))
def test_the_interval_of_a_ratio_holds_the_thresholds_that_are_undecided(
    stream: list[tuple[float, int]], alpha: float, log_threshold: float, slack: float
) -> None:
    delta, tokens = np.array(stream).T
    low, high = ratio_interval(delta, tokens, alpha=alpha, slack=slack)
    assume(all(abs(end - log_threshold) > 1e-9 for end in (low, high)))
    side = ratio_side(delta, tokens, log_threshold=log_threshold, alpha=alpha, slack=slack)
    assert side == (1 if log_threshold < low else -1 if log_threshold > high else 0)


@given(stream=streams, alpha=alphas)
def test_the_interval_holds_the_estimate_and_its_ends_are_where_the_rule_turns(
    stream: list[tuple[float, int]], alpha: float
) -> None:
    delta, tokens = np.array(stream).T
    low, high = ratio_interval(delta, tokens, alpha=alpha)
    assert low - 1e-9 <= delta.sum() / tokens.sum() <= high + 1e-9
    for end, outwards in ((low, -1), (high, 1)):
        if math.isfinite(end):
            bounds = plain_bounds(list(delta - end * tokens), alpha)
            assert bounds[0 if outwards < 0 else 1] == pytest.approx(0, abs=1e-6)


@given(stream=streams, alpha=alphas, thresholds=st.lists(st.floats(-4, 4), min_size=5))
def test_a_ratio_above_a_threshold_is_above_every_smaller_one(
    stream: list[tuple[float, int]], alpha: float, thresholds: list[float]
) -> None:
    delta, tokens = np.array(stream).T
    sides = [
        int(ratio_side(delta, tokens, log_threshold=at, alpha=alpha)) for at in sorted(thresholds)
    ]
    assert sides == sorted(sides, reverse=True)


@pytest.mark.parametrize("long_blocks", [4, 12])
def test_token_counts_that_differ_without_measure_leave_a_ratio_undecided(
    long_blocks: int,
) -> None:
    tokens = np.array([2.0] * (32 - long_blocks) + [100.0] * long_blocks)
    delta = 0.5 * tokens + 1.0
    thresholds = (-5.0, 0.5)
    plain = [int(mean_side(summarise(delta - at * tokens), 0.001)) for at in thresholds]
    assert plain == [0, 1]  # above 0.5 and yet not above -5: no interval
    for at in thresholds:
        assert ratio_side(delta, tokens, log_threshold=at, alpha=0.001) == 0
    assert ratio_interval(delta, tokens, alpha=0.001) == (-math.inf, math.inf)
    twice = np.tile(delta, 2), np.tile(tokens, 2)
    assert ratio_side(*twice, log_threshold=-5.0, alpha=0.05) == 1


@given(stream=streams, alpha=alphas, scale=st.sampled_from([0.5, 2.0, 8.0]), data=st.data())
def test_the_interval_ignores_the_order_and_follows_the_units(
    stream: list[tuple[float, int]], alpha: float, scale: float, data: st.DataObject
) -> None:
    delta, tokens = np.array(stream).T
    interval = ratio_interval(delta, tokens, alpha=alpha)
    order = np.array(data.draw(st.permutations(range(len(delta)))))

    def close(expected: tuple[float, ...]) -> Any:
        return pytest.approx(expected, rel=1e-6, abs=1e-8)

    assert ratio_interval(delta[order], tokens[order], alpha=alpha) == close(interval)
    scaled = tuple(scale * end for end in interval)
    assert ratio_interval(scale * delta, tokens, alpha=alpha) == close(scaled)
    assert ratio_interval(scale * delta, scale * tokens, alpha=alpha) == close(interval)


def exact_e_value(n: int, k: int) -> Fraction:
    """2^(n+1) times the integral of p^k (1-p)^(n-k) over [0, 1/2], term by term."""
    terms = (
        Fraction((-1) ** i * math.comb(n - k, i), (k + i + 1) * 2 ** (k + i + 1))
        for i in range(n - k + 1)
    )
    return Fraction(2 ** (n + 1)) * sum(terms, Fraction(0))


@pytest.mark.parametrize("n", [0, 1, 2, 7, 64, 101])
def test_e_values_are_the_exact_integrals(n: int) -> None:
    exact = [float(exact_e_value(n, k)) for k in range(n + 1)]
    assert np.exp(sign_log_e_values(n)) == pytest.approx(exact, rel=1e-11)


@pytest.mark.parametrize("n", [500, 1000, 1500])
def test_e_values_are_the_incomplete_beta_function_at_large_n(n: int) -> None:
    k = np.arange(int(0.7 * n))  # beyond, betainc underflows
    expected = (n + 1) * math.log(2) + betaln(k + 1, n - k + 1)
    expected += np.log(betainc(k + 1, n - k + 1, 0.5))
    assert sign_log_e_values(n)[k] == pytest.approx(expected, rel=1e-9, abs=1e-9)
    assert np.isfinite(sign_log_e_values(n)).all()


@pytest.mark.parametrize("n", [1, 64, 200])
def test_an_e_value_is_one_on_average_when_the_threshold_is_the_median(n: int) -> None:
    probability = np.array([math.comb(n, k) / 2**n for k in range(n + 1)])
    assert probability @ np.exp(sign_log_e_values(n)) == pytest.approx(1)


def probability_of_ever_deciding(alpha: float, p: float, *, last: int) -> float:
    """Exact, over all paths: that at any n from 64 to ``last`` few enough draws lie above."""
    alive = np.array([1.0])  # probability of k draws above, no decision yet
    decided = 0.0
    for n in range(1, last + 1):
        alive = np.append(alive * (1 - p), 0) + np.insert(alive * p, 0, 0)
        if n >= 64:
            few = np.arange(n + 1) <= sign_limit(n, alpha)
            decided += float(alive[few].sum())
            alive[few] = 0
    assert alive.sum() + decided == pytest.approx(1)
    return decided


@pytest.mark.parametrize("alpha", [0.05, 0.01])
def test_the_median_is_ever_misjudged_with_at_most_probability_alpha(alpha: float) -> None:
    at_the_median = probability_of_ever_deciding(alpha, 0.5, last=1000)
    assert 0.1 * alpha < at_the_median <= alpha
    assert probability_of_ever_deciding(alpha, 0.55, last=1000) < at_the_median
    assert probability_of_ever_deciding(alpha, 0.3, last=1000) > 0.999


@pytest.mark.parametrize("alpha", [0.05, 0.001])
@pytest.mark.parametrize("n", [1, 3, 64, 65, 400])
def test_the_limit_is_the_last_count_with_enough_evidence(n: int, alpha: float) -> None:
    limit = sign_limit(n, alpha)
    if limit >= 0:
        assert exact_e_value(n, limit) >= 1 / alpha
    assert exact_e_value(n, limit + 1) < 1 / alpha


@given(
    values=st.lists(st.integers(-9, 9).map(float) | st.just(math.inf), min_size=1, max_size=90),
    alpha=alphas,
    median=st.integers(-20, 20).map(lambda value: value / 2),
)
def test_the_interval_of_a_median_holds_what_is_undecided(
    values: list[float], alpha: float, median: float
) -> None:
    low, high = median_interval(values, alpha=alpha)
    side = median_side(np.array(values) - median, alpha=alpha)
    assert side == (1 if median < low else -1 if median > high else 0)


def test_draws_at_the_threshold_count_against_either_decision() -> None:
    limit = sign_limit(100, 0.01)
    for sign in (1.0, -1.0):
        few = np.array([0.0] * limit + [sign] * (100 - limit))
        assert median_side(few, alpha=0.01) == sign
        assert median_side(np.append(few[:-1], 0.0), alpha=0.01) == 0
    assert median_side(np.zeros(1000), alpha=0.01) == 0


def test_the_median_is_the_same_at_each_look_as_alone() -> None:
    values = np.random.default_rng(5).normal(0.25, 1, (3, 200))
    looks = [64, 65, 150, 200]
    together = median_side(values, alpha=0.05, looks=looks)
    alone = [[int(median_side(row[:n], alpha=0.05)) for n in looks] for row in values]
    assert together.tolist() == alone


def test_blind_share_shrinks_with_what_was_seen() -> None:
    assert blind_share(32, 0.01) == pytest.approx(math.log(100) / 32)
    assert blind_share(2, 0.01) == 1.0
    # a share that large is missed by n blocks with a probability of about alpha at most
    assert (1 - blind_share(128, 0.01)) ** 128 <= 0.01
