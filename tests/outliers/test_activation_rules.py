"""Rules on activations against plain loops over the raw values, by arithmetic and by chance."""

import math
import statistics
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats

from robustness.errors import RuleError
from robustness.outliers.activations.outputs import summed_up as package_summary
from robustness.outliers.outliers import Detection
from robustness.outliers.rules.activations import he_kurtosis, kurtosis, llm_int8, massive, variance
from robustness.outliers.rules.summaries import DenseInputs, LayerOutputs
from tests.support.checkpoints.hidden_states import Array, Hidden, counted, random_hidden, summed_up

# ------------------------------------------------------------------------------ plain loops


def _plain_int8(hidden: Hidden, threshold: float, layer_share: float, share: float) -> list[int]:
    found = []
    for dim in range(hidden[0][0].shape[1]):
        layers = pairs = positions = 0
        for layer in hidden:
            column = [abs(float(x)) for values in layer for x in values[:, dim]]
            hits = sum(x >= threshold for x in column)
            layers += hits > 0
            pairs += hits
            positions += len(column)
        if layers >= layer_share * len(hidden) and pairs >= share * positions:
            found.append(dim)
    return found


def _plain_massive(hidden: Hidden, threshold: float, factor: float) -> list[int]:
    found = set()
    for values in (values for layer in hidden for values in layer):
        median = statistics.median(abs(float(x)) for x in values.ravel())
        for position in values.tolist():
            for dim, x in enumerate(position):
                if abs(x) > threshold and abs(x) >= factor * median:
                    found.add(dim)
    return sorted(found)


def _plain_variance(hidden: Hidden, factor: float) -> list[int]:
    sentences = [values[0].tolist() for values in hidden[-1]]
    variances = [statistics.pvariance(column) for column in zip(*sentences, strict=True)]
    mean = statistics.fmean(variances)
    return [dim for dim, value in enumerate(variances) if value >= factor * mean]


def _plain_kurtosis(hidden: Hidden, n_std: float, share: float) -> list[int]:
    counts: dict[int, int] = {}
    for layer in hidden:
        flagged = set()
        for values in layer:
            flat = values.ravel().tolist()
            mean, std = statistics.fmean(flat), statistics.stdev(flat)
            for position in values.tolist():
                flagged |= {d for d, x in enumerate(position) if abs(x - mean) > n_std * std}
        for dim in flagged:
            counts[dim] = counts.get(dim, 0) + 1
    return sorted(dim for dim, count in counts.items() if count >= share * len(hidden))


# Each rule with settings under which small Gaussian arrays have a few outliers and many others.
RULES: dict[str, tuple[Callable[[Hidden], Detection], Callable[[Hidden], list[int]]]] = {
    "llm-int8": (
        lambda hidden: llm_int8(counted(hidden, 2.2), threshold=2.2, min_layer_share=0.5),
        lambda hidden: _plain_int8(hidden, 2.2, 0.5, 0.06),
    ),
    "massive": (
        lambda hidden: massive(summed_up(hidden), threshold=3.0, median_factor=5.0),
        lambda hidden: _plain_massive(hidden, 3.0, 5.0),
    ),
    "variance": (
        lambda hidden: variance(summed_up(hidden), factor=2.0),
        lambda hidden: _plain_variance(hidden, 2.0),
    ),
    "kurtosis": (
        lambda hidden: kurtosis(summed_up(hidden), n_std=2.5),
        lambda hidden: _plain_kurtosis(hidden, 2.5, 0.5),
    ),
}


@st.composite
def hidden_states(draw: st.DrawFn) -> Hidden:
    return random_hidden(
        seed=draw(st.integers(0, 10**6)),
        n_layers=draw(st.integers(1, 4)),
        lengths=draw(st.lists(st.integers(2, 9), min_size=2, max_size=4)),
        hidden_size=draw(st.integers(8, 20)),
        planted=draw(st.dictionaries(st.integers(0, 7), st.sampled_from([-9.0, 6.0]), max_size=3)),
    )


@pytest.mark.parametrize("name", RULES)
@given(hidden=hidden_states())
def test_a_rule_is_its_plain_loop(name: str, hidden: Hidden) -> None:
    rule, plain = RULES[name]
    found = rule(hidden)
    assert list(found.dims) == plain(hidden)
    assert found.name == name
    assert set(found.dims).isdisjoint(found.magnitude)
    assert len(found.dims) + len(found.magnitude) == hidden[0][0].shape[1]
    assert Detection.from_dict(found.to_dict()) == found
    for outlier in found.outliers:
        assert outlier.layers
        assert {len(values) for values in outlier.statistics.values()} == {len(outlier.layers)}


@pytest.mark.parametrize("name", RULES)
@given(hidden=hidden_states(), seed=st.integers(0, 99))
def test_sign_and_numbering_of_dimensions_do_not_matter(
    name: str, hidden: Hidden, seed: int
) -> None:
    rule, _ = RULES[name]
    order = np.random.default_rng(seed).permutation(hidden[0][0].shape[1])
    found = rule(hidden).dims
    assert rule([[-values for values in layer] for layer in hidden]).dims == found
    moved = rule([[values[:, order] for values in layer] for layer in hidden]).dims
    assert sorted(order[list(moved)].tolist()) == list(found)


@pytest.mark.parametrize("name", ["variance", "kurtosis"])
@given(hidden=hidden_states(), factor=st.sampled_from([0.25, 8.0, -1024.0]))
def test_rules_without_fixed_numbers_ignore_the_scale(
    name: str, hidden: Hidden, factor: float
) -> None:
    rule, _ = RULES[name]
    scaled = rule([[values * factor for values in layer] for layer in hidden])
    assert scaled.dims == rule(hidden).dims


# ------------------------------------------------------------------------------ where they turn


def _flat(n_layers: int, n_positions: int, hidden_size: int, value: float = 0.1) -> Hidden:
    return [[np.full((n_positions, hidden_size), value)] for _ in range(n_layers)]


def test_llm_int8_counts_from_six_on_in_a_quarter_of_layers_and_six_percent_of_positions() -> None:
    def found(value: float, layers: int, positions: int) -> tuple[int, ...]:
        hidden = _flat(8, 50, 12)
        for layer in range(layers):
            hidden[layer][0][:positions, 3] = -value
        return llm_int8(counted(hidden, 6.0)).dims

    assert found(6.0, 2, 12) == (3,)  # 24 of 400 pairs of layer and position are 6 %
    assert found(math.nextafter(6.0, 0), 2, 12) == ()
    assert found(6.0, 1, 24) == ()  # an eighth of the layers
    assert found(6.0, 2, 11) == ()  # 5.5 %
    assert found(6.0, 8, 3) == (3,)


def test_llm_int8_takes_attention_and_ffn_of_one_layer_together() -> None:
    """A value at either input makes the layer count, and both inputs' positions count."""
    largest = np.zeros((4, 8))
    largest[0, 5] = largest[3, 5] = 7.0
    hits = np.zeros((4, 8), dtype=np.int64)
    hits[0, 5] = hits[3, 5] = 6
    inputs = DenseInputs(
        layer=np.array([0, 0, 1, 1]),
        n_layers=2,
        largest=largest,
        hits=hits,
        threshold=6.0,
        positions=50,
    )
    (outlier,) = llm_int8(inputs, min_layer_share=1.0).outliers
    assert outlier.layers == (0, 1)
    assert outlier.details == {"share_of_positions": 12 / 200}
    with pytest.raises(ValueError, match=r"counted at 6\.0, not at 5\.0"):
        llm_int8(inputs, threshold=5.0)


def test_massive_needs_more_than_a_hundred_and_at_least_a_thousand_medians() -> None:
    def found(value: float, rest: float) -> tuple[int, ...]:
        hidden = _flat(3, 9, 16, rest)
        hidden[1][0][4, 11] = -value
        return massive(summed_up(hidden)).dims

    assert found(128.0, 0.125) == (11,)  # 1024 medians
    assert found(125.0, 0.125) == (11,)  # 1000, inclusive
    assert found(124.5, 0.125) == ()
    assert found(100.0, 0.0625) == ()  # 1600 medians, but not more than 100
    assert found(100.5, 0.0625) == (11,)


def test_massive_names_layers_and_how_far_out() -> None:
    hidden = _flat(3, 9, 16, 0.125)
    hidden[1][0][4, 11], hidden[2][0][0, 11] = -250.0, 500.0
    (outlier,) = massive(summed_up(hidden)).outliers
    assert outlier.layers == (1, 2)
    assert outlier.statistics == {
        "|value|": (250.0, 500.0),
        "multiple of the median": (2000.0, 4000.0),
    }


def test_variance_counts_from_five_times_the_mean_on() -> None:
    def found(spread: float) -> tuple[int, ...]:
        sentences = [np.zeros((2, 10)) for _ in range(2)]
        for sign, values in zip((-1, 1), sentences, strict=True):
            values[:, :] = sign
            values[:, 2] = sign * spread
        return variance(summed_up([sentences])).dims

    assert found(3.0) == (2,)  # 9 = 5 x (9 + 9)/10, inclusive
    assert found(2.99) == ()


def test_variance_of_what_never_varies_is_none() -> None:
    hidden = [[np.ones((3, 10)), np.ones((3, 10))]]
    assert variance(summed_up(hidden)).dims == ()


def test_rules_that_cannot_fire_say_so() -> None:
    with pytest.raises(RuleError, match=r"at factor = 5 with 5 dimensions"):
        variance(summed_up([[np.ones((3, 5)), np.zeros((3, 5))]]))
    with pytest.raises(RuleError, match=r"only one; set rules\.text_blocks to 2"):
        variance(summed_up([[np.ones((3, 50))]]))
    # n = 37: the largest possible z is 36 / sqrt(37) = 5.92; n = 39: 6.08
    with pytest.raises(RuleError, match=r"at n_std = 6 in text blocks of 37 values.*5\.92"):
        kurtosis(summed_up([[np.eye(1, 37)]]))
    assert kurtosis(summed_up([[np.eye(1, 39)]])).dims == (0,)


# ------------------------------------------------------------------------------ kurtosis


def test_he_kurtosis_is_between_all_alike_and_one_alone() -> None:
    alone = np.zeros((1, 24))
    alone[0, 5] = 3.0
    assert he_kurtosis(np.full((2, 24), 7.0)).tolist() == [1.0, 1.0]
    assert he_kurtosis(alone).tolist() == [24.0]
    assert he_kurtosis(np.zeros((1, 24))).tolist() == [1.0]
    half = np.repeat([[1.0, 0.0]], 12, axis=1).reshape(1, 24)
    assert he_kurtosis(half).tolist() == [2.0]  # half of the features carry everything


_SQUARES = arrays(
    np.float64, st.tuples(st.integers(1, 3), st.integers(1, 30)), elements=st.floats(1e-3, 1e3)
)


@given(squares=_SQUARES, factor=st.floats(1e-3, 1e3))
def test_he_kurtosis_keeps_its_bounds_and_ignores_scale_and_order(
    squares: Array, factor: float
) -> None:
    found = he_kurtosis(squares)
    assert ((found >= 1 - 1e-9) & (found <= squares.shape[1] * (1 + 1e-9))).all()
    assert he_kurtosis(squares * factor) == pytest.approx(found, rel=1e-9)
    assert he_kurtosis(squares[:, ::-1]) == pytest.approx(found, rel=1e-9)


def test_he_kurtosis_is_the_variance_of_squares_plus_one() -> None:
    """As the authors' code has it: normalised by the global RMS, Var(s²) = Kurt - 1."""
    x = np.random.default_rng(0).standard_t(5, (200, 40))
    s2 = (x**2).mean(axis=0) / (x**2).mean()
    assert he_kurtosis((x**2).mean(axis=0)[None])[0] - 1 == pytest.approx(s2.var())


def test_kurtosis_of_a_sequence_is_three_for_gaussians_and_its_size_for_one_value() -> None:
    rng = np.random.default_rng(3)
    gaussian = package_summary(rng.normal(2, 5, (400, 500)), 0)
    assert gaussian["kurtosis"] == pytest.approx(3, abs=4 * math.sqrt(24 / 200_000))
    alone = np.zeros((100, 100))
    alone[40, 40] = 1e4
    assert package_summary(alone, 0)["kurtosis"] == pytest.approx(10_000, rel=1e-3)


def test_kurtosis_reports_every_layer() -> None:
    hidden = random_hidden(0, 3, [30, 20], 16, {})
    hidden[1][0][:, 4] = hidden[1][1][:, 4] = 100.0
    details = kurtosis(summed_up(hidden), n_std=3.0).details
    kurt = details["kurt"]
    assert kurt[1] == pytest.approx(16, rel=0.01)
    assert max(kurt[0], kurt[2]) < 1.3
    assert details["largest"][1] == 100.0
    assert details["max_to_median"][1] > 100


# ------------------------------------------------------------------------------ by chance


def test_fixed_numbers_have_no_chance() -> None:
    hidden = random_hidden(0, 2, [5, 5], 16, {})
    assert llm_int8(counted(hidden, 6.0)).by_chance is None
    assert massive(summed_up(hidden)).by_chance is None


@pytest.mark.parametrize(
    ("n", "hidden_size", "factor"), [(2, 64, 5.0), (8, 768, 5.0), (9, 16, 2.0)]
)
def test_chance_of_variance_is_the_tail_of_beta(n: int, hidden_size: int, factor: float) -> None:
    hidden = [[np.random.default_rng(n).normal(size=(1, hidden_size)) for _ in range(n)]]
    found = variance(summed_up(hidden), factor=factor).by_chance
    a = (n - 1) / 2
    exact = hidden_size * stats.beta.sf(factor / hidden_size, a, (hidden_size - 1) * a)
    assert found == pytest.approx(float(exact), rel=1e-6)


def _simulated(rule: Callable[[Hidden], Detection], draw: Callable[[], Hidden], n: int) -> None:
    detections = [rule(draw()) for _ in range(n)]
    found = [len(detection.dims) for detection in detections]
    expected = detections[0].by_chance
    error = float(np.std(found)) / math.sqrt(n)
    assert error > 0
    assert np.mean(found) == pytest.approx(expected, abs=4 * error)


def test_chance_of_variance_agrees_with_simulation() -> None:
    rng = np.random.default_rng(11)

    def rule(hidden: Hidden) -> Detection:
        return variance(_sentences_only(hidden), factor=2.5)

    _simulated(rule, lambda: [[rng.normal(size=(1, 64)) for _ in range(8)]], 400)


def _sentences_only(hidden: Hidden) -> LayerOutputs:
    sentences = np.array([values[0] for values in hidden[-1]])
    nothing = np.zeros((1, len(sentences)))
    wide = np.zeros((1, *sentences.shape))
    return LayerOutputs(
        lowest=wide,
        highest=wide,
        median_abs=nothing,
        mean=nothing,
        std=nothing,
        kurtosis=nothing,
        max_to_median=nothing,
        mean_square=wide[0],
        tokens=np.ones(len(sentences), dtype=np.int64),
        sentences=sentences,
    )


def test_chance_of_kurtosis_agrees_with_simulation() -> None:
    rng = np.random.default_rng(13)

    def draw() -> Hidden:
        return [[rng.normal(size=(8, 200)) for _ in range(2)] for _ in range(3)]

    _simulated(lambda hidden: kurtosis(summed_up(hidden), n_std=2.5), draw, 100)
