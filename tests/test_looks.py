"""What is known after some text blocks: a ratio, the median of draws, a factor."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from robustness.errors import MeasurementError
from robustness.sequential import ratio_side
from robustness.verdict import (
    alpha_for,
    look_at_draws,
    look_at_factor,
    look_at_ratio,
    reduced_precision,
)

nats = st.floats(-30, 30, allow_nan=False).map(lambda value: round(value, 3))
streams = st.lists(st.tuples(nats, st.integers(1, 40)), min_size=1, max_size=100)


def stream(n: int, *, mean: float = 1.0, std: float = 3.0, seed: int = 0) -> tuple[Any, Any]:
    rng = np.random.default_rng(seed)
    return rng.normal(mean, std, n), rng.integers(8, 30, n)


class TestRatio:
    @given(pairs=streams, threshold=st.floats(0.2, 5), exhausted=st.booleans())
    def test_display_and_decision_never_disagree(
        self, pairs: list[tuple[float, int]], threshold: float, exhausted: bool
    ) -> None:
        delta, tokens = np.array(pairs).T
        look = look_at_ratio(delta, tokens, threshold=threshold, alpha=0.05, exhausted=exhausted)
        if look.interval is None:
            assert exhausted
            assert look.side == ("above" if look.ratio >= threshold else "below")
        else:
            low, high = look.interval
            assert (low <= threshold <= high) == (look.side is None)
            assert (threshold < low) == (look.side == "above")

    def test_display_and_decision_agree_to_the_last_bit(self) -> None:
        delta, tokens = stream(64)
        interval = look_at_ratio(delta, tokens, threshold=1.0, alpha=0.05).interval
        assert interval
        sides = []
        for end in interval:
            for shift in range(-3000, 3000, 50):
                threshold = end * (1 + shift * 2**-52)
                look = look_at_ratio(delta, tokens, threshold=threshold, alpha=0.05)
                assert look.interval
                assert (look.interval[0] <= threshold <= look.interval[1]) == (look.side is None)
                sides.append(look.side)
        assert set(sides) == {"above", None, "below"}

    @given(pairs=streams)
    def test_the_ratio_is_exp_of_summed_nats_over_summed_tokens(
        self, pairs: list[tuple[float, int]]
    ) -> None:
        delta, tokens = map(list, zip(*pairs, strict=True))
        look = look_at_ratio(delta, tokens, threshold=1.05, alpha=0.01)
        assert look.ratio == pytest.approx(math.exp(sum(delta) / sum(tokens)))
        assert (look.text_blocks, look.tokens) == (len(pairs), sum(tokens))
        assert [type(x) for x in (look.ratio, look.text_blocks, look.tokens)] == [float, int, int]

    @pytest.mark.parametrize(("mean", "side"), [(40.0, "above"), (-40.0, "below")])
    def test_nothing_is_decided_before_the_minimum(self, mean: float, side: str) -> None:
        delta, tokens = stream(32, mean=mean)
        early = look_at_ratio(delta[:31], tokens[:31], threshold=1.05, alpha=0.01)
        assert (early.side, early.interval) == (None, (0.0, math.inf))
        assert look_at_ratio(delta, tokens, threshold=1.05, alpha=0.01).side == side
        late = look_at_ratio(delta, tokens, threshold=1.05, alpha=0.01, minimum=33)
        assert late.side is None

    def test_a_used_up_corpus_is_evaluated_however_short(self) -> None:
        look = look_at_ratio([0.5, 0.1], [4, 2], threshold=1.1, alpha=0.01, exhausted=True)
        assert (look.side, look.exact, look.interval) == ("above", True, None)
        assert look.ratio == pytest.approx(math.exp(0.1))

    def test_the_threshold_itself_is_above(self) -> None:
        look = look_at_ratio([0.0] * 40, [3] * 40, threshold=1.0, alpha=0.01, exhausted=True)
        assert look.side == "above"

    def test_equal_text_blocks_decide_at_the_first_look(self) -> None:
        look = look_at_ratio([2.0] * 32, [10] * 32, threshold=1.05, alpha=1e-6)
        assert look.side == "above"
        assert look.interval == pytest.approx((math.exp(0.2), math.exp(0.2)))

    def test_a_text_block_without_tokens_is_no_obstacle(self) -> None:
        delta, tokens = stream(64)
        delta[3], tokens[3] = 0.0, 0
        assert look_at_ratio(delta, tokens, threshold=0.5, alpha=0.01).side == "above"

    def test_an_infinite_degradation_is_certain_at_once(self) -> None:
        look = look_at_ratio([0.1, math.inf], [3, 3], threshold=9.0, alpha=0.01)
        assert (look.side, look.ratio) == ("above", math.inf)
        assert look.exact
        assert look.interval is None

    def test_a_ratio_too_large_for_a_float_is_infinite(self) -> None:
        look = look_at_ratio([9000.0] * 40, [3] * 40, threshold=1.05, alpha=0.01)
        assert (look.side, look.ratio) == ("above", math.inf)

    def test_an_interval_may_be_open_for_a_float(self) -> None:
        tokens = np.array([2] * 17 + [100] * 15)  # their mean is only just certainly positive
        look = look_at_ratio([-9000.0, 9000.0] * 16, tokens, threshold=1.05, alpha=0.001)
        assert (look.side, look.interval) == (None, (0.0, math.inf))

    @pytest.mark.parametrize("exhausted", [False, True])
    @pytest.mark.parametrize("bad", [math.nan, -math.inf])
    def test_what_is_not_finite_is_an_error(self, bad: float, exhausted: bool) -> None:
        with pytest.raises(MeasurementError, match="not a number"):
            look_at_ratio(
                [0.1, bad, math.inf], [1, 1, 1], threshold=1.05, alpha=0.01, exhausted=exhausted
            )

    def test_no_scored_token_is_an_error(self) -> None:
        with pytest.raises(MeasurementError, match="no token"):
            look_at_ratio([0.0, 0.0], [0, 0], threshold=1.05, alpha=0.01)

    @pytest.mark.parametrize(
        ("arguments", "named"),
        [
            ({"threshold": 0.0}, "threshold"),
            ({"threshold": math.inf}, "threshold"),
            ({"threshold": math.nan}, "threshold"),
            ({"alpha": 0.0}, "error probability"),
            ({"alpha": 0.7}, "error probability"),
            ({"tokens": [1]}, "token counts"),
            ({"tokens": [1, -1]}, "token counts"),
            ({"delta_nll": [], "tokens": []}, "one or more"),
        ],
    )
    def test_impossible_arguments_are_refused(self, arguments: dict[str, Any], named: str) -> None:
        valid = {"delta_nll": [0.1, 0.2], "tokens": [1, 1], "threshold": 1.05, "alpha": 0.01}
        with pytest.raises(ValueError, match=named):
            look_at_ratio(**{**valid, **arguments})


class TestReducedPrecision:
    def test_the_slack_is_the_mean_error_and_three_standard_errors(self) -> None:
        full, tokens = stream(32)
        error = np.random.default_rng(1).normal(0.02, 0.1, 32)
        found = reduced_precision(full + error, full, tokens, threshold=1.05)
        slack = abs(error.mean()) + 3 * error.std(ddof=1) / math.sqrt(32)
        distance = abs((full - math.log(1.05) * tokens).mean())
        assert found.slack_nats == pytest.approx(slack)
        assert found.distance_nats == pytest.approx(distance)
        assert found.needs_float32 == (slack > 0.1 * distance)

    @pytest.mark.parametrize(("error", "needed"), [(0.0, False), (0.09, False), (0.11, True)])
    def test_float32_is_needed_where_the_error_is_a_tenth_of_the_distance(
        self, error: float, needed: bool
    ) -> None:
        full, tokens = np.full(32, 1.0), np.full(32, 10)
        found = reduced_precision(full + error, full, tokens, threshold=1.0)
        assert found.needs_float32 is needed

    def test_an_infinite_degradation_is_left_to_float32(self) -> None:
        found = reduced_precision([math.inf, 1.0], [1.0, 1.0], [3, 3], threshold=1.05)
        assert found.needs_float32

    def test_one_text_block_cannot_tell(self) -> None:
        with pytest.raises(ValueError, match="at least two"):
            reduced_precision([1.0], [1.0], [3], threshold=1.05)

    @given(pairs=streams, slack=st.floats(0.001, 5))
    def test_the_interval_widens_and_never_decides_more(
        self, pairs: list[tuple[float, int]], slack: float
    ) -> None:
        delta, tokens = np.array(pairs).T
        narrow = look_at_ratio(delta, tokens, threshold=1.05, alpha=0.05)
        wide = look_at_ratio(delta, tokens, threshold=1.05, alpha=0.05, slack_nats=slack)
        assert narrow.interval
        assert wide.interval
        assert wide.interval[0] <= narrow.interval[0] * (1 + 1e-9)
        assert wide.interval[1] >= narrow.interval[1] * (1 - 1e-9)
        assert wide.side in (None, narrow.side)

    def test_a_corpus_used_up_in_reduced_precision_is_known_up_to_the_slack(self) -> None:
        delta, tokens = [1.0] * 5, [10] * 5
        margin = 0.2 / 10
        for threshold, side in ((1.07, "above"), (1.1, None), (1.14, "below")):
            look = look_at_ratio(
                delta, tokens, threshold=threshold, alpha=0.01, exhausted=True, slack_nats=0.2
            )
            assert (look.side, look.exact) == (side, False)
            assert look.interval == pytest.approx((math.exp(0.1 - margin), math.exp(0.1 + margin)))

    @pytest.mark.parametrize("bias", [0.5, -0.5])
    def test_a_planted_discrepancy_misleads_without_the_slack_and_not_with_it(
        self, bias: float
    ) -> None:
        rng = np.random.default_rng(11)
        full, tokens = stream(800, std=1.0)
        reduced = full + rng.normal(bias, 0.3, 800)
        reduced += bias - (reduced - full).mean()  # exactly biased: the slack has to cover it
        true_log_ratio = float(full.sum() / tokens.sum())
        alpha, looks = 0.05, np.arange(32, 800, 16)
        misled = {False: 0, True: 0}
        for _ in range(400):
            order = rng.permutation(800)
            first = order[:32]
            slack = reduced_precision(
                reduced[first], full[first], tokens[first], threshold=math.exp(true_log_ratio)
            ).slack_nats
            for allowed in misled:
                sides = ratio_side(
                    reduced[order],
                    tokens[order],
                    log_threshold=true_log_ratio,
                    alpha=alpha,
                    looks=looks,
                    slack=slack if allowed else 0.0,
                )
                misled[allowed] += bool(sides.any())
        assert misled[False] > 300
        assert misled[True] <= alpha * 400


class TestDraws:
    @given(
        pairs=st.lists(st.tuples(nats, st.integers(1, 40)), min_size=1, max_size=200),
        threshold=st.floats(0.2, 5),
    )
    def test_display_and_decision_never_disagree(
        self, pairs: list[tuple[float, int]], threshold: float
    ) -> None:
        delta, tokens = np.array(pairs).T
        look = look_at_draws(delta, tokens, threshold=threshold, alpha=0.05)
        low, high = look.interval
        assert (low <= threshold <= high) == (look.side is None)
        assert (threshold < low) == (look.side == "above")
        if len(pairs) >= 64:
            assert (look.side == "below") == (look.e_values[0] >= 20)
            assert (look.side == "above") == (look.e_values[1] >= 20)
        else:
            assert (look.side, look.interval) == (None, (0.0, math.inf))

    def test_nothing_is_decided_before_64_draws(self) -> None:
        early = look_at_draws([-1.0] * 63, [64] * 63, threshold=1.1, alpha=0.05)
        assert (early.side, early.e_values[0] > 1e6) == (None, True)
        assert look_at_draws([-1.0] * 64, [64] * 64, threshold=1.1, alpha=0.05).side == "below"

    def test_the_median_is_decided_although_the_mean_lies_on_the_other_side(self) -> None:
        delta = np.array([0.1] * 90 + [640.0] * 10)
        look = look_at_draws(delta, [64] * 100, threshold=1.1, alpha=0.01)
        assert look.side == "below"
        assert look.median == pytest.approx(math.exp(0.1 / 64))
        assert look.mean == pytest.approx(math.exp((9 + 6400) / 6400))
        assert look.mean > 1.1

    def test_numbers_are_those_of_a_plain_sort(self) -> None:
        delta, tokens = stream(200, seed=4)
        look = look_at_draws(delta, tokens, threshold=1.1, alpha=0.01)
        ratios = sorted(math.exp(d / t) for d, t in zip(delta, tokens, strict=True))
        assert look.median == pytest.approx(math.sqrt(ratios[99] * ratios[100]))
        assert look.quantiles["0.9"] == pytest.approx(ratios[179])
        assert look.quantiles["0.25"] == pytest.approx(ratios[49])
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
        look = look_at_draws(np.arange(draws) / 99, [64] * draws, threshold=1.1, alpha=0.01)
        assert set(look.quantiles) == levels
        for level, value in look.quantiles.items():
            beyond = sum(
                (math.exp(d / 99 / 64) - value) * (float(level) - 0.5) > 1e-12 for d in range(draws)
            )
            assert beyond >= 3

    def test_display_and_decision_agree_to_the_last_bit(self) -> None:
        sides = set()
        for value in np.linspace(0.001, 0.05, 50).tolist():
            look = look_at_draws([value] * 64, [1] * 64, threshold=math.exp(value), alpha=0.05)
            low, high = look.interval
            assert (low <= math.exp(value) <= high) == (look.side is None)
            sides.add(look.side)
        assert sides == {"above", None, "below"}  # exp and log round either way

    def test_an_infinite_draw_lies_above(self) -> None:
        delta = np.array([0.1] * 80 + [math.inf] * 20)
        look = look_at_draws(delta, [64] * 100, threshold=1.1, alpha=0.01)
        assert (look.side, look.mean, look.worst[0]) == ("below", math.inf, 80)
        assert look.quantiles["0.9"] == math.inf
        all_infinite = look_at_draws([math.inf] * 70, [64] * 70, threshold=1.1, alpha=0.01)
        assert (all_infinite.side, all_infinite.median) == ("above", math.inf)

    def test_a_draw_at_the_threshold_decides_nothing(self) -> None:
        look = look_at_draws([0.0] * 500, [64] * 500, threshold=1.0, alpha=0.05)
        assert (look.side, look.interval) == (None, (1.0, 1.0))
        assert max(look.e_values) < 1

    @pytest.mark.parametrize("bad", [math.nan, -math.inf])
    def test_what_is_not_finite_is_an_error(self, bad: float) -> None:
        with pytest.raises(MeasurementError, match="not a number"):
            look_at_draws([0.1, bad], [64, 64], threshold=1.1, alpha=0.01)

    def test_a_draw_without_tokens_is_an_error(self) -> None:
        with pytest.raises(MeasurementError, match="no scored token"):
            look_at_draws([0.1, 0.0], [64, 0], threshold=1.1, alpha=0.01)


class TestFactor:
    def test_it_compares_the_difference_with_zero(self) -> None:
        control, _ = stream(400, mean=1.0, std=1.0)
        noise, _ = stream(400, mean=0.0, std=1.0, seed=1)
        for multiple, side in ((8.0, "above"), (2.0, "below"), (5.0, None)):
            joint = multiple * 1.0 + noise
            look = look_at_factor(joint, control, factor=5, alpha=0.01)
            assert look.side == side
            assert look.joint_mean == pytest.approx(joint.mean())
            assert look.control_mean == pytest.approx(control.mean())
            assert look.ratio == pytest.approx(joint.mean() / control.mean())

    def test_nothing_is_decided_before_the_minimum(self) -> None:
        look = look_at_factor([9.0] * 127, [1.0] * 127, factor=5, alpha=0.01)
        assert look.side is None
        assert look_at_factor([9.0] * 128, [1.0] * 128, factor=5, alpha=0.01).side == "above"

    def test_text_blocks_of_one_draw_are_one_observation(self) -> None:
        rng = np.random.default_rng(2)
        draws = np.repeat(np.arange(128), 4)
        joint = rng.normal(5.4, 1.0, 512)
        control = np.repeat(rng.normal(1.0, 1.0, 128), 4)  # harm that a draw's text blocks share
        assert look_at_factor(joint, control, factor=5, alpha=0.4).side == "above"
        as_draws = look_at_factor(joint, control, factor=5, alpha=0.4, draws=draws)
        assert as_draws.side is None
        sums = [values.reshape(128, 4).sum(axis=1) for values in (joint, control)]
        for factor in (0.5, 5.0, 20.0):
            asked = look_at_factor(joint, control, factor=factor, alpha=0.01, draws=draws)
            assert asked.side == look_at_factor(*sums, factor=factor, alpha=0.01).side
            assert asked.text_blocks == 512
        few = look_at_factor(joint[:508], control[:508], factor=0.5, alpha=0.01, draws=draws[:508])
        assert few.side is None  # 127 draws

    def test_the_joint_ablation_has_to_cost_something(self) -> None:
        harmless, _ = stream(400, mean=-1.0, std=0.5)
        look = look_at_factor(harmless, [-3.0] * 400, factor=5, alpha=0.01)
        assert (look.side, look.ratio) == ("below", 0.0)
        unclear, _ = stream(400, mean=0.0, std=0.5)
        assert look_at_factor(unclear, [-3.0] * 400, factor=5, alpha=0.01).side is None

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
        look = look_at_factor([1.0, joint], [control, control], factor=5, alpha=0.01)
        assert (look.side, look.ratio) == (side, ratio)

    @pytest.mark.parametrize("factor", [0.0, -1.0, math.inf, math.nan])
    def test_an_impossible_factor_is_refused(self, factor: float) -> None:
        with pytest.raises(ValueError, match="factor"):
            look_at_factor([1.0], [1.0], factor=factor, alpha=0.01)

    def test_both_have_to_be_of_the_same_text_blocks(self) -> None:
        with pytest.raises(ValueError, match="same text blocks"):
            look_at_factor([1.0, 2.0], [1.0], factor=5, alpha=0.01)
        with pytest.raises(ValueError, match="number of its draw"):
            look_at_factor([1.0, 2.0], [1.0, 2.0], factor=5, alpha=0.01, draws=[0])


class TestAlpha:
    def test_it_is_shared_among_all_comparisons(self) -> None:
        assert alpha_for(0.99, 1) == pytest.approx(0.01)
        assert alpha_for(0.99, 20) == pytest.approx(0.0005)
        assert alpha_for(0.95, 0) == pytest.approx(0.05)

    @pytest.mark.parametrize(("confidence", "m"), [(1.0, 1), (0.3, 1), (math.nan, 1), (0.9, -1)])
    def test_impossible_arguments_are_refused(self, confidence: float, m: int) -> None:
        with pytest.raises(ValueError, match=r"confidence|comparisons"):
            alpha_for(confidence, m)


@given(pairs=streams)
def test_no_look_depends_on_the_order_of_what_was_seen(pairs: list[tuple[float, int]]) -> None:
    delta, tokens = np.array(pairs).T
    forward = look_at_ratio(delta, tokens, threshold=1.05, alpha=0.01)
    backward = look_at_ratio(delta[::-1], tokens[::-1], threshold=1.05, alpha=0.01)
    assert forward.interval
    assume(all(abs(end - 1.05) > 1e-6 for end in forward.interval))
    assert backward.side == forward.side
    assert backward.ratio == pytest.approx(forward.ratio, rel=1e-12)
    draws = [look_at_draws(d, t, threshold=1.05, alpha=0.01) for d, t in (
        (delta, tokens), (delta[::-1], tokens[::-1]))]  # fmt: skip
    assert (draws[0].side, draws[0].interval) == (draws[1].side, draws[1].interval)


def test_a_joint_ablation_known_not_to_degrade_fails_at_once() -> None:
    """rxnmapper-albert: the joint ΔNLL is slightly negative, which no interval ever decides."""
    rng = np.random.default_rng(0)
    joint, control = rng.normal(-0.04, 1, 400), rng.normal(0.03, 1, 400)
    look = partial(look_at_factor, joint, control, factor=5.0, alpha=0.001)
    assert look().side is None
    known = look(joint_corpus_nats=float(joint.sum()))
    assert known.side == "below"


def test_a_joint_ablation_known_to_degrade_needs_the_factor_alone() -> None:
    rng = np.random.default_rng(1)
    joint, control = rng.normal(0.3, 4, 400), rng.normal(-1, 0.1, 400)
    look = partial(look_at_factor, joint, control, factor=5.0, alpha=0.001)
    assert look().side is None
    assert look(joint_corpus_nats=120.0).side == "above"
    assert look(joint_corpus_nats=0.0).side == "below"
