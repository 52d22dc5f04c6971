"""Rule ``busters`` against a plain loop, and against what it must find by chance."""

import math
import statistics

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats

from robustness.errors import RuleError
from robustness.outliers.outliers import Detection
from robustness.outliers.rules.weights import busters, z_scores


def _plain(
    scale: NDArray[np.float64], bias: NDArray[np.float64] | None, k: float, share: float
) -> list[int]:
    """The rule as a loop over Python floats."""
    n_layers, hidden_size = scale.shape
    found = []
    for dim in range(hidden_size):
        hits = 0
        for layer in range(n_layers):
            out = []
            for values in (scale, bias):
                if values is not None:
                    row = values[layer].tolist()
                    spread = statistics.stdev(row)
                    out.append(abs(row[dim] - statistics.fmean(row)) > k * spread)
            hits += all(out)
        if hits >= share * n_layers:
            found.append(dim)
    return found


@given(
    seed=st.integers(0, 10**6),
    n_layers=st.integers(1, 7),
    hidden_size=st.integers(14, 60),
    planted=st.lists(st.integers(0, 13), max_size=3),
    k=st.sampled_from([1.0, 2.0, 3.0]),
    share=st.sampled_from([1 / 3, 0.5, 1.0]),
    with_bias=st.booleans(),
)
def test_busters_is_the_plain_loop(
    seed: int,
    n_layers: int,
    hidden_size: int,
    planted: list[int],
    k: float,
    share: float,
    *,
    with_bias: bool,
) -> None:
    rng = np.random.default_rng(seed)
    scale = rng.normal(1, 0.1, (n_layers, hidden_size))
    bias = rng.normal(0, 0.1, (n_layers, hidden_size)) if with_bias else None
    for dim in planted:
        layers = rng.random(n_layers) < 0.7
        scale[layers, dim] += 2
        if bias is not None:
            bias[layers, dim] -= 2
    found = busters(scale, bias, k=k, min_layer_share=share)
    assert list(found.dims) == _plain(scale, bias, k, share)
    assert set(found.dims).isdisjoint(found.magnitude)
    assert len(found.dims) + len(found.magnitude) == hidden_size
    assert Detection.from_dict(found.to_dict()) == found


def test_small_values_are_outliers_too() -> None:
    scale = np.random.default_rng(0).normal(1, 0.01, (4, 64))
    bias = np.random.default_rng(1).normal(0, 0.01, (4, 64))
    scale[:, 17] = 0.5
    bias[:, 17] = 0.3
    (outlier,) = busters(scale, bias).outliers
    assert outlier.dim == 17
    assert outlier.layers == (0, 1, 2, 3)
    assert outlier.z_scale is not None
    assert max(outlier.z_scale) < -3
    assert outlier.z_bias is not None
    assert min(outlier.z_bias) > 3


def test_scale_and_bias_must_stand_out_in_the_same_layer() -> None:
    scale = np.random.default_rng(0).normal(1, 0.01, (4, 64))
    bias = np.random.default_rng(1).normal(0, 0.01, (4, 64))
    scale[:2, 5] = 2
    bias[2:, 5] = 2
    assert busters(scale, bias).dims == ()
    assert 5 in busters(scale, None).dims


def test_a_rule_that_cannot_fire_says_so() -> None:
    # n = 10: the largest possible z is 9 / sqrt(10) = 2.85
    with pytest.raises(RuleError, match=r"k = 3 with 10 dimensions.*2\.85"):
        busters(np.ones((2, 10)), None)
    scale = np.zeros((2, 11))
    scale[:, 4] = 1
    assert busters(scale, None).dims == (4,)  # 10 / sqrt(11) = 3.02


def test_values_that_are_not_finite_are_named() -> None:
    scale = np.ones((3, 20))
    scale[1, 7] = math.nan
    with pytest.raises(RuleError, match="scale of dimension 7 in layer 1"):
        busters(scale, None)


def test_constant_parameters_have_no_outliers() -> None:
    assert (z_scores(np.full((3, 40), 0.1)) == 0).all()
    assert busters(np.full((3, 40), 0.1), np.zeros((3, 40))).dims == ()


def test_layers_that_share_a_module_count_once_by_chance() -> None:
    """Monte Carlo: one module executed twelve times, as in ALBERT, and two executed six times."""
    rng = np.random.default_rng(0)
    for n_distinct in (1, 2):
        found, expected = [], 0.0
        for _ in range(200):
            scale, bias = (
                np.repeat(rng.normal(size=(n_distinct, 400)), 12 // n_distinct, axis=0)
                for _ in range(2)
            )
            detection = busters(scale, bias, k=1.5, n_distinct=n_distinct)
            found.append(len(detection.outliers))
            expected = detection.by_chance or 0.0
        assert np.mean(found) == pytest.approx(expected, abs=5 * np.std(found) / np.sqrt(200))
        assert expected > 1.0


@pytest.mark.parametrize(
    ("k", "n_layers", "hidden_size", "with_bias", "share", "expected"),
    [
        (3.0, 12, 768, False, 0.5, 2.7e-10),  # FACTS 6.1, by arithmetic
        (2.0, 12, 768, False, 0.5, 0.0050),
        (2.0, 12, 768, False, 1 / 3, 1.21),
        (3.0, 4, 512, True, 0.5, 1.6e-7),
        (2.0, 24, 1024, True, 1 / 3, 2.5e-13),
    ],
)
def test_expected_number_by_chance(
    k: float, n_layers: int, hidden_size: int, *, with_bias: bool, share: float, expected: float
) -> None:
    bias = np.zeros((n_layers, hidden_size)) if with_bias else None
    found = busters(np.ones((n_layers, hidden_size)), bias, k=k, min_layer_share=share)
    q = (2 * stats.norm.sf(k)) ** (1 + with_bias)
    needed = math.ceil(share * n_layers - 1e-9)
    reference = hidden_size * stats.binom.sf(needed - 1, n_layers, q)
    assert found.by_chance == pytest.approx(float(reference), rel=1e-9)
    assert found.by_chance == pytest.approx(expected, rel=0.06)


def test_chance_agrees_with_simulation() -> None:
    rng = np.random.default_rng(5)
    found = [
        len(busters(rng.normal(size=(12, 768)), None, k=2.0, min_layer_share=1 / 3).dims)
        for _ in range(150)
    ]
    expected = busters(rng.normal(size=(12, 768)), None, k=2.0, min_layer_share=1 / 3).by_chance
    assert expected is not None
    assert expected == pytest.approx(1.21, abs=0.01)
    assert np.mean(found) == pytest.approx(expected, abs=4 * math.sqrt(expected / 150))


@given(seed=st.integers(0, 10**6), factor=st.sampled_from([-1.0, 0.125, 64.0]))
def test_numbering_sign_and_scale_of_parameters_do_not_matter(seed: int, factor: float) -> None:
    rng = np.random.default_rng(seed)
    scale, bias = rng.standard_t(3, size=(2, 5, 40))
    order = rng.permutation(40)
    found = busters(scale, bias, k=1.5, min_layer_share=0.2).dims
    moved = busters(scale[:, order], bias[:, order], k=1.5, min_layer_share=0.2).dims
    assert sorted(order[list(moved)].tolist()) == list(found)
    assert busters(scale * factor, bias * factor, k=1.5, min_layer_share=0.2).dims == found
