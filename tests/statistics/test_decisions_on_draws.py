"""What is known after some random draws: their median, and the factor to their mean."""

from __future__ import annotations

import math
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from robustness.errors import MeasurementError
from robustness.statistics.draw_decisions import decide_factor, decide_median
from robustness.statistics.sequential import sign_log_e_values
from tests.support.records.streams import nats, stream

if TYPE_CHECKING:
    from numpy.typing import NDArray


def e_values(
    delta: NDArray[np.float64], tokens: NDArray[np.int64], threshold: float
) -> tuple[float, float]:
    """Evidence that the median lies below a threshold, and above it."""
    beyond = delta / tokens - math.log(threshold)
    log_e = sign_log_e_values(len(delta))
    return math.exp(log_e[(beyond >= 0).sum()]), math.exp(log_e[(beyond <= 0).sum()])


class TestDraws:
    @given(
        pairs=st.lists(st.tuples(nats, st.integers(1, 40)), min_size=1, max_size=200),
        threshold=st.floats(0.2, 5),
    )
    def test_display_and_decision_never_disagree(
        self, pairs: list[tuple[float, int]], threshold: float
    ) -> None:
        delta, tokens = np.array(pairs).T
        look = decide_median(delta, tokens, threshold=threshold, alpha=0.05)
        assert look.interval
        low, high = look.interval
        assert (low <= threshold <= high) == (look.side is None)
        assert (threshold < low) == (look.side == "above")
        if len(pairs) >= 64:
            against_below, against_above = e_values(delta, tokens, threshold)
            assert (look.side == "below") == (against_below >= 20)
            assert (look.side == "above") == (against_above >= 20)
        else:
            assert (look.side, look.interval) == (None, (0.0, math.inf))

    def test_nothing_is_decided_before_64_draws(self) -> None:
        assert decide_median([-1.0] * 63, [64] * 63, threshold=1.1, alpha=0.05).side is None
        assert e_values(np.full(63, -1.0), np.full(63, 64), 1.1)[0] > 1e6
        assert decide_median([-1.0] * 64, [64] * 64, threshold=1.1, alpha=0.05).side == "below"

    def test_the_median_is_decided_although_the_mean_lies_on_the_other_side(self) -> None:
        delta = np.array([0.1] * 90 + [640.0] * 10)
        look = decide_median(delta, [64] * 100, threshold=1.1, alpha=0.01)
        assert look.side == "below"
        assert look.measured == pytest.approx(math.exp(0.1 / 64))
        assert look.mean == pytest.approx(math.exp((9 + 6400) / 6400))
        assert look.mean > 1.1

    def test_numbers_are_those_of_a_plain_sort(self) -> None:
        delta, tokens = stream(200, seed=4)
        look = decide_median(delta, tokens, threshold=1.1, alpha=0.01)
        ratios = sorted(math.exp(d / t) for d, t in zip(delta, tokens, strict=True))
        assert look.measured == pytest.approx(math.sqrt(ratios[99] * ratios[100]))
        assert look.quantiles["0.9"] == pytest.approx(ratios[179])
        assert look.quantiles["0.25"] == pytest.approx(ratios[49])
        assert look.interval
        assert look.interval[0] in [pytest.approx(ratio) for ratio in ratios]
        by_hand = sorted(range(200), key=lambda draw: -delta[draw] / tokens[draw])
        assert look.worst == tuple(by_hand[:5])
        assert (look.draws, look.tokens) == (200, int(tokens.sum()))

    @pytest.mark.parametrize(
        ("draws", "levels"),
        [
            (3, set()),
            (12, {"0.75"}),
            (16, {"0.25", "0.75"}),
            (59, {"0.25", "0.75", "0.9"}),
            (60, {"0.25", "0.75", "0.9", "0.95"}),
            (80, {"0.05", "0.25", "0.75", "0.9", "0.95"}),
            (299, {"0.05", "0.25", "0.75", "0.9", "0.95"}),
            (300, {"0.05", "0.25", "0.75", "0.9", "0.95", "0.99"}),
        ],
    )
    def test_a_quantile_has_three_draws_beyond_it(self, draws: int, levels: set[str]) -> None:
        look = decide_median(np.arange(draws) / 99, [64] * draws, threshold=1.1, alpha=0.01)
        assert set(look.quantiles) == levels
        for level, value in look.quantiles.items():
            beyond = sum(
                (math.exp(d / 99 / 64) - value) * (float(level) - 0.5) > 1e-12 for d in range(draws)
            )
            assert beyond >= 3

    def test_display_and_decision_agree_to_the_last_bit(self) -> None:
        sides = set()
        for value in np.linspace(0.001, 0.05, 50).tolist():
            look = decide_median([value] * 64, [1] * 64, threshold=math.exp(value), alpha=0.05)
            assert look.interval
            low, high = look.interval
            assert (low <= math.exp(value) <= high) == (look.side is None)
            sides.add(look.side)
        assert sides == {"above", None, "below"}  # exp and log round either way

    def test_an_infinite_draw_lies_above(self) -> None:
        delta = np.array([0.1] * 80 + [math.inf] * 20)
        look = decide_median(delta, [64] * 100, threshold=1.1, alpha=0.01)
        assert (look.side, look.mean, look.worst[0]) == ("below", math.inf, 80)
        assert look.quantiles["0.9"] == math.inf
        all_infinite = decide_median([math.inf] * 70, [64] * 70, threshold=1.1, alpha=0.01)
        assert (all_infinite.side, all_infinite.measured) == ("above", math.inf)

    def test_a_draw_at_the_threshold_decides_nothing(self) -> None:
        look = decide_median([0.0] * 500, [64] * 500, threshold=1.0, alpha=0.05)
        assert (look.side, look.interval) == (None, (1.0, 1.0))
        assert max(e_values(np.zeros(500), np.full(500, 64), 1.0)) < 1

    @pytest.mark.parametrize("bad", [math.nan, -math.inf])
    def test_what_is_not_finite_is_an_error(self, bad: float) -> None:
        with pytest.raises(MeasurementError, match="not a number"):
            decide_median([0.1, bad], [64, 64], threshold=1.1, alpha=0.01)

    def test_a_draw_without_tokens_is_an_error(self) -> None:
        with pytest.raises(MeasurementError, match="no scored token"):
            decide_median([0.1, 0.0], [64, 0], threshold=1.1, alpha=0.01)


class TestFactor:
    def test_it_compares_the_difference_with_zero(self) -> None:
        control, _ = stream(400, mean=1.0, std=1.0)
        noise, _ = stream(400, mean=0.0, std=1.0, seed=1)
        for multiple, side in ((8.0, "above"), (2.0, "below"), (5.0, None)):
            joint = multiple * 1.0 + noise
            look = decide_factor(joint, control, factor=5, alpha=0.01)
            assert look.side == side
            assert look.joint_mean == pytest.approx(joint.mean())
            assert look.control_mean == pytest.approx(control.mean())
            assert look.measured == pytest.approx(joint.mean() / control.mean())

    def test_nothing_is_decided_before_the_minimum(self) -> None:
        look = decide_factor([9.0] * 127, [1.0] * 127, factor=5, alpha=0.01)
        assert look.side is None
        assert decide_factor([9.0] * 128, [1.0] * 128, factor=5, alpha=0.01).side == "above"

    def test_text_blocks_of_one_draw_are_one_observation(self) -> None:
        rng = np.random.default_rng(2)
        draws = np.repeat(np.arange(128), 4)
        joint = rng.normal(5.4, 1.0, 512)
        control = np.repeat(rng.normal(1.0, 1.0, 128), 4)  # harm that a draw's text blocks share
        assert decide_factor(joint, control, factor=5, alpha=0.4).side == "above"
        as_draws = decide_factor(joint, control, factor=5, alpha=0.4, draws=draws)
        assert as_draws.side is None
        sums = [values.reshape(128, 4).sum(axis=1) for values in (joint, control)]
        for factor in (0.5, 5.0, 20.0):
            asked = decide_factor(joint, control, factor=factor, alpha=0.01, draws=draws)
            assert asked.side == decide_factor(*sums, factor=factor, alpha=0.01).side
            assert asked.seen == 512
        few = decide_factor(joint[:508], control[:508], factor=0.5, alpha=0.01, draws=draws[:508])
        assert few.side is None  # 127 draws

    def test_the_joint_ablation_has_to_cost_something(self) -> None:
        harmless, _ = stream(400, mean=-1.0, std=0.5)
        look = decide_factor(harmless, [-3.0] * 400, factor=5, alpha=0.01)
        assert (look.side, look.measured) == ("below", 0.0)
        unclear, _ = stream(400, mean=0.0, std=0.5)
        assert decide_factor(unclear, [-3.0] * 400, factor=5, alpha=0.01).side is None

    @pytest.mark.parametrize(
        ("joint", "control", "side", "ratio"),
        [
            (math.inf, 0.1, "above", math.inf),
            (0.1, math.inf, "below", 0.0),
            (math.inf, math.inf, "below", 0.0),
            (0.1, -0.1, None, math.inf),
        ],
    )
    def test_infinite_and_negative_effects(
        self, joint: float, control: float, side: str | None, ratio: float
    ) -> None:
        look = decide_factor([1.0, joint], [control, control], factor=5, alpha=0.01)
        assert (look.side, look.measured) == (side, ratio)

    @pytest.mark.parametrize("factor", [0.0, -1.0, math.inf, math.nan])
    def test_an_impossible_factor_is_refused(self, factor: float) -> None:
        with pytest.raises(ValueError, match="factor"):
            decide_factor([1.0], [1.0], factor=factor, alpha=0.01)

    def test_both_have_to_be_of_the_same_text_blocks(self) -> None:
        with pytest.raises(ValueError, match="same text blocks"):
            decide_factor([1.0, 2.0], [1.0], factor=5, alpha=0.01)
        with pytest.raises(ValueError, match="number of its draw"):
            decide_factor([1.0, 2.0], [1.0, 2.0], factor=5, alpha=0.01, draws=[0])


def test_a_joint_ablation_known_not_to_degrade_fails_at_once() -> None:
    """rxnmapper-albert: the joint ΔNLL is slightly negative, which no interval ever decides."""
    rng = np.random.default_rng(0)
    joint, control = rng.normal(-0.04, 1, 400), rng.normal(0.03, 1, 400)
    look = partial(decide_factor, joint, control, factor=5.0, alpha=0.001)
    assert look().side is None
    known = look(joint_corpus_nats=float(joint.sum()))
    assert known.side == "below"


def test_a_joint_ablation_known_to_degrade_needs_the_factor_alone() -> None:
    rng = np.random.default_rng(1)
    joint, control = rng.normal(0.3, 4, 400), rng.normal(-1, 0.1, 400)
    look = partial(decide_factor, joint, control, factor=5.0, alpha=0.001)
    assert look().side is None
    assert look(joint_corpus_nats=120.0).side == "above"
    assert look(joint_corpus_nats=0.0).side == "below"
