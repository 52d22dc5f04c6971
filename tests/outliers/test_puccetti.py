"""Rule ``puccetti``, as coded and as described, against a plain loop and against chance."""

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
from robustness.outliers.rules.weights import expected_by_chance, puccetti

_Array = NDArray[np.float64]


def _counts(values: _Array, n_std: float) -> list[int]:
    """In how many layers each dimension is out of sigma, as a loop over Python floats."""
    n_layers, hidden_size = values.shape
    counts = [0] * hidden_size
    for layer in range(n_layers):
        row = values[layer].tolist()
        mean, std = statistics.fmean(row), statistics.stdev(row)
        for dim in range(hidden_size):
            counts[dim] += abs(row[dim] - mean) > n_std * std
    return counts


def _coded(scale: _Array, bias: _Array, n_std: float, min_layers: int, topk: int) -> list[int]:
    """The published procedure, step by step."""
    lists = []
    for values in (scale, bias):
        counted = [(c, -d) for d, c in enumerate(_counts(values, n_std)) if c > min_layers - 1]
        lists.append([-negative for _, negative in sorted(counted, reverse=True)])
    interleaved = []
    while all(lists):
        interleaved += [lists[0].pop(0), lists[1].pop(0)]
    return sorted(set(interleaved[:topk]))


def _described(scale: _Array, bias: _Array | None, n_std: float) -> list[int]:
    n_layers = len(scale)
    found = {d for d, c in enumerate(_counts(scale, n_std)) if c == n_layers}
    if bias is not None:
        found |= {d for d, c in enumerate(_counts(bias, n_std)) if c == n_layers}
    return sorted(found)


@st.composite
def parameters(draw: st.DrawFn) -> tuple[_Array, _Array]:
    """Scales and biases of a few layers, with dimensions that stand out in some of them."""
    rng = np.random.default_rng(draw(st.integers(0, 10**6)))
    n_layers, hidden_size = draw(st.integers(4, 8)), draw(st.integers(14, 50))
    arrays = [rng.normal(center, 0.1, (n_layers, hidden_size)) for center in (1, 0)]
    for values in arrays:
        for dim in draw(st.lists(st.integers(0, 13), max_size=4)):
            values[rng.random(n_layers) < 0.8, dim] += draw(st.sampled_from([-2.0, 2.0]))
    return arrays[0], arrays[1]


@given(
    arrays=parameters(),
    n_std=st.sampled_from([1.0, 2.0, 3.0]),
    min_layers=st.integers(1, 4),
    topk=st.integers(1, 8),
)
def test_both_variants_are_the_plain_loops(
    arrays: tuple[_Array, _Array], n_std: float, min_layers: int, topk: int
) -> None:
    scale, bias = arrays
    coded = puccetti(scale, bias, n_std=n_std, min_layers=min_layers, topk=topk)
    assert list(coded.dims) == _coded(scale, bias, n_std, min_layers, topk)
    for given_bias in (bias, None):
        described = puccetti(scale, given_bias, variant="paper", n_std=n_std)
        assert list(described.dims) == _described(scale, given_bias, n_std)
    for found in (coded, described):
        assert set(found.dims).isdisjoint(found.magnitude)
        assert len(found.dims) + len(found.magnitude) == scale.shape[1]
        assert Detection.from_dict(found.to_dict()) == found
        assert found.name == "puccetti"


@given(arrays=parameters(), seed=st.integers(0, 99), factor=st.sampled_from([-3.0, 0.5, 100.0]))
def test_dimensions_are_compared_within_a_layer_only(
    arrays: tuple[_Array, _Array], seed: int, factor: float
) -> None:
    """Renumbering them renumbers what is found; shifting and scaling all of them does nothing."""
    scale, bias = arrays
    order = np.random.default_rng(seed).permutation(scale.shape[1])
    found = puccetti(scale, bias, variant="paper", n_std=2.0).dims
    moved = puccetti(scale[:, order], bias[:, order], variant="paper", n_std=2.0).dims
    assert sorted(order[list(moved)].tolist()) == list(found)
    for variant in ("code", "paper"):
        plain = puccetti(scale, bias, variant=variant, n_std=2.0)
        scaled = puccetti(scale * factor + 1, bias * factor, variant=variant, n_std=2.0)
        assert scaled.dims == plain.dims


def _with_scales_out(*layers_of: tuple[int, int]) -> _Array:
    values = np.random.default_rng(0).normal(1, 0.01, (8, 64)).clip(0.98, 1.02)
    for dim, n_layers in layers_of:
        values[:n_layers, dim] = 0.5
    return values


def test_as_coded_a_dimension_needs_more_than_three_layers_of_one_parameter() -> None:
    bias = _with_scales_out((50, 8)) - 1
    assert puccetti(_with_scales_out((7, 4)), bias).dims == (7, 50)
    assert puccetti(_with_scales_out((7, 3)), bias).dims == ()  # an empty list empties all


def test_as_coded_the_lists_are_interleaved_up_to_the_shorter_one() -> None:
    scale = _with_scales_out((1, 8), (2, 7), (3, 6), (4, 5))
    bias = _with_scales_out((60, 5), (61, 6)) - 1
    # 1, 61, 2, 60: most layers first; 3 and 4 have no partner
    assert puccetti(scale, bias).dims == (1, 2, 60, 61)
    assert puccetti(scale, bias, topk=3).dims == (1, 2, 61)


def test_as_described_it_is_all_layers() -> None:
    scale = _with_scales_out((1, 8), (2, 7))
    assert puccetti(scale, None, variant="paper").dims == (1,)
    assert puccetti(scale, _with_scales_out((9, 8)), variant="paper").dims == (1, 9)


@pytest.mark.parametrize(
    ("shape", "with_bias", "says"),
    [
        ((12, 10), True, r"cannot flag anything at n_std = 3 with 10 dimensions.*2\.85"),
        ((12, 64), False, 'output site has no bias.*variant = "paper"'),
        ((3, 64), True, "cannot flag anything in 3 layers: it asks for 4"),
    ],
)
def test_what_cannot_fire_says_so(shape: tuple[int, int], *, with_bias: bool, says: str) -> None:
    bias = np.zeros(shape) if with_bias else None
    with pytest.raises(RuleError, match=says):
        puccetti(np.ones(shape), bias)


def test_values_that_are_not_finite_are_named() -> None:
    scale = np.ones((4, 20))
    bias = np.zeros((4, 20))
    bias[2, 3] = math.inf
    with pytest.raises(RuleError, match=r"bias of dimension 3 in layer 2.*rule puccetti"):
        puccetti(scale, bias)


# FACTS 6.1: k; one parameter in 4 of 12 and 6 of 12 layers, both parameters in 6 of 12 (d = 768),
# in 2 of 4 (d = 512), in 8 of 24 (d = 1024).
CHANCE = {
    3.0: (2.0e-5, 2.7e-10, 1.1e-25, 1.6e-7, 6.0e-33),
    2.5: (0.0084, 2.4e-6, 9.5e-18, 7.3e-5, 2.4e-22),
    2.0: (1.21, 0.0050, 5.5e-11, 0.0131, 2.5e-13),
    1.5: (49.9, 1.96, 2.1e-5, 0.956, 6.0e-6),
}
LAYOUTS = ((768, 12, 4, 1), (768, 12, 6, 1), (768, 12, 6, 2), (512, 4, 2, 2), (1024, 24, 8, 2))


@pytest.mark.parametrize("k", CHANCE)
def test_the_table_of_chance(k: float) -> None:
    for (hidden_size, n_layers, needed, n_tests), published in zip(LAYOUTS, CHANCE[k], strict=True):
        expected = expected_by_chance(hidden_size, n_layers, needed, k, n_tests=n_tests)
        q = (2 * stats.norm.sf(k)) ** n_tests
        exact = hidden_size * stats.binom.sf(needed - 1, n_layers, q)
        assert expected == pytest.approx(float(exact), rel=1e-9)
        assert expected == pytest.approx(published, rel=0.06)


@pytest.mark.parametrize(
    ("variant", "n_std", "n_layers", "hidden_size", "expected"),
    [("code", 2.0, 12, 768, 1.247), ("paper", 1.0, 4, 500, 10.08)],
)
def test_chance_agrees_with_simulation(
    variant: str, n_std: float, n_layers: int, hidden_size: int, expected: float
) -> None:
    rng = np.random.default_rng(7)
    found = []
    for _ in range(120):
        scale, bias = rng.normal(size=(2, n_layers, hidden_size))
        detection = puccetti(scale, bias, variant=variant, n_std=n_std)  # type: ignore[arg-type]
        found.append(len(detection.dims))
    assert detection.by_chance == pytest.approx(expected, rel=0.01)
    error = float(np.std(found)) / math.sqrt(len(found))
    assert np.mean(found) == pytest.approx(expected, abs=4 * error)
