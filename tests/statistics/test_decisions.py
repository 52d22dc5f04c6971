"""What is known after some text blocks: a ratio, on its own and against chance."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from robustness.errors import MeasurementError
from robustness.statistics.decisions import decide_ratio, reduced_precision
from robustness.statistics.draw_decisions import decide_median
from robustness.statistics.sequential import alpha_for, ratio_side
from tests.support.records.streams import stream, streams


class TestRatio:
    @given(pairs=streams, threshold=st.floats(0.2, 5), exhausted=st.booleans())
    def test_display_and_decision_never_disagree(
        self, pairs: list[tuple[float, int]], threshold: float, exhausted: bool
    ) -> None:
        delta, tokens = np.array(pairs).T
        look = decide_ratio(delta, tokens, threshold=threshold, alpha=0.05, exhausted=exhausted)
        if look.interval is None:
            assert exhausted
            assert look.side == ("above" if look.measured >= threshold else "below")
        else:
            low, high = look.interval
            assert (low <= threshold <= high) == (look.side is None)
            assert (threshold < low) == (look.side == "above")

    def test_display_and_decision_agree_to_the_last_bit(self) -> None:
        delta, tokens = stream(64)
        interval = decide_ratio(delta, tokens, threshold=1.0, alpha=0.05).interval
        assert interval
        sides = []
        for end in interval:
            for shift in range(-3000, 3000, 50):
                threshold = end * (1 + shift * 2**-52)
                look = decide_ratio(delta, tokens, threshold=threshold, alpha=0.05)
                assert look.interval
                assert (look.interval[0] <= threshold <= look.interval[1]) == (look.side is None)
                sides.append(look.side)
        assert set(sides) == {"above", None, "below"}

    @given(pairs=streams)
    def test_the_ratio_is_exp_of_summed_nats_over_summed_tokens(
        self, pairs: list[tuple[float, int]]
    ) -> None:
        delta, tokens = map(list, zip(*pairs, strict=True))
        look = decide_ratio(delta, tokens, threshold=1.05, alpha=0.01)
        assert look.measured == pytest.approx(math.exp(sum(delta) / sum(tokens)))
        assert (look.seen, look.tokens) == (len(pairs), sum(tokens))
        assert [type(x) for x in (look.measured, look.seen, look.tokens)] == [float, int, int]

    @pytest.mark.parametrize(("mean", "side"), [(40.0, "above"), (-40.0, "below")])
    def test_nothing_is_decided_before_the_minimum(self, mean: float, side: str) -> None:
        delta, tokens = stream(32, mean=mean)
        early = decide_ratio(delta[:31], tokens[:31], threshold=1.05, alpha=0.01)
        assert (early.side, early.interval) == (None, (0.0, math.inf))
        assert decide_ratio(delta, tokens, threshold=1.05, alpha=0.01).side == side
        late = decide_ratio(delta, tokens, threshold=1.05, alpha=0.01, minimum=33)
        assert late.side is None

    def test_a_used_up_corpus_is_evaluated_however_short(self) -> None:
        look = decide_ratio([0.5, 0.1], [4, 2], threshold=1.1, alpha=0.01, exhausted=True)
        assert (look.side, look.exact, look.interval) == ("above", True, None)
        assert look.measured == pytest.approx(math.exp(0.1))

    def test_the_threshold_itself_is_above(self) -> None:
        look = decide_ratio([0.0] * 40, [3] * 40, threshold=1.0, alpha=0.01, exhausted=True)
        assert look.side == "above"

    def test_equal_text_blocks_decide_at_the_first_look(self) -> None:
        look = decide_ratio([2.0] * 32, [10] * 32, threshold=1.05, alpha=1e-6)
        assert look.side == "above"
        assert look.interval == pytest.approx((math.exp(0.2), math.exp(0.2)))

    def test_a_text_block_without_tokens_is_no_obstacle(self) -> None:
        delta, tokens = stream(64)
        delta[3], tokens[3] = 0.0, 0
        assert decide_ratio(delta, tokens, threshold=0.5, alpha=0.01).side == "above"

    def test_an_infinite_degradation_is_certain_at_once(self) -> None:
        look = decide_ratio([0.1, math.inf], [3, 3], threshold=9.0, alpha=0.01)
        assert (look.side, look.measured) == ("above", math.inf)
        assert look.exact
        assert look.interval is None

    def test_a_ratio_too_large_for_a_float_is_infinite(self) -> None:
        look = decide_ratio([9000.0] * 40, [3] * 40, threshold=1.05, alpha=0.01)
        assert (look.side, look.measured) == ("above", math.inf)

    def test_an_interval_may_be_open_for_a_float(self) -> None:
        tokens = np.array([2] * 17 + [100] * 15)  # their mean is only just certainly positive
        look = decide_ratio([-9000.0, 9000.0] * 16, tokens, threshold=1.05, alpha=0.001)
        assert (look.side, look.interval) == (None, (0.0, math.inf))

    @pytest.mark.parametrize("exhausted", [False, True])
    @pytest.mark.parametrize("bad", [math.nan, -math.inf])
    def test_what_is_not_finite_is_an_error(self, bad: float, exhausted: bool) -> None:
        with pytest.raises(MeasurementError, match="not a number"):
            decide_ratio(
                [0.1, bad, math.inf], [1, 1, 1], threshold=1.05, alpha=0.01, exhausted=exhausted
            )

    def test_no_scored_token_is_an_error(self) -> None:
        with pytest.raises(MeasurementError, match="no token"):
            decide_ratio([0.0, 0.0], [0, 0], threshold=1.05, alpha=0.01)

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
            decide_ratio(**{**valid, **arguments})


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
        narrow = decide_ratio(delta, tokens, threshold=1.05, alpha=0.05)
        wide = decide_ratio(delta, tokens, threshold=1.05, alpha=0.05, slack_nats=slack)
        assert narrow.interval
        assert wide.interval
        assert wide.interval[0] <= narrow.interval[0] * (1 + 1e-9)
        assert wide.interval[1] >= narrow.interval[1] * (1 - 1e-9)
        assert wide.side in (None, narrow.side)

    def test_a_corpus_used_up_in_reduced_precision_is_known_up_to_the_slack(self) -> None:
        delta, tokens = [1.0] * 5, [10] * 5
        margin = 0.2 / 10
        for threshold, side in ((1.07, "above"), (1.1, None), (1.14, "below")):
            look = decide_ratio(
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
    forward = decide_ratio(delta, tokens, threshold=1.05, alpha=0.01)
    backward = decide_ratio(delta[::-1], tokens[::-1], threshold=1.05, alpha=0.01)
    assert forward.interval
    assume(all(abs(end - 1.05) > 1e-6 for end in forward.interval))
    assert backward.side == forward.side
    assert backward.measured == pytest.approx(forward.measured, rel=1e-12)
    draws = [decide_median(d, t, threshold=1.05, alpha=0.01) for d, t in (
        (delta, tokens), (delta[::-1], tokens[::-1]))]  # fmt: skip
    assert (draws[0].side, draws[0].interval) == (draws[1].side, draws[1].interval)
