"""How a decision narrowed: every look again by the specification's formulas, from plain numbers."""

import json
import math
import statistics
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from robustness.ablation.interventions import FixedAblation, Intact
from robustness.checkpoint.resolving import resolve
from robustness.policy.policy import load_policy
from robustness.statistics.details import Details
from robustness.statistics.figures import DrawFigures, HistoryEntry
from robustness.statistics.loop import thinned
from robustness.statistics.verdict import Verdict
from robustness.store.context import Context
from robustness.vetting import Vetting
from tests.support.plugin.plugin_support import DIM, Stubs

ALPHA = 0.002


@pytest.fixture
def vetting(stubs: Stubs) -> Callable[..., Vetting]:
    def make(**options: Any) -> Vetting:
        settings = load_policy(None, options={"corpus": str(stubs.corpus), **options})
        return Vetting(
            checkpoint=resolve(str(stubs.model), cache=stubs.store),
            settings=settings.settings("model"),
            context=Context(root=stubs.store),
        )

    return make


def is_undecided(values: Sequence[float]) -> bool:
    """Whether the confidence sequence with its tail guard leaves the sign of the mean open."""
    n, mean, s = len(values), math.fsum(values) / len(values), statistics.stdev(values)
    rho2 = (-2 * math.log(ALPHA) + math.log(-2 * math.log(ALPHA)) + 1) / 64
    w = s * math.sqrt(
        2 * (n * rho2 + 1) / (n**2 * rho2) * math.log(math.sqrt(n * rho2 + 1) / ALPHA)
    )
    upper = mean + w + (max(values) - mean) * math.log(1 / ALPHA) / n
    lower = mean - w - (mean - min(values)) * math.log(1 / ALPHA) / n
    return upper >= 0 >= lower


def end_of_interval(delta: Sequence[float], tokens: Sequence[int], direction: int) -> float:
    """The last threshold in one direction that is not excluded, found by halving."""
    inside = math.fsum(delta) / sum(tokens)
    outside = inside + 20.0 * direction
    for _ in range(60):
        middle = (inside + outside) / 2
        if is_undecided([d - middle * n for d, n in zip(delta, tokens, strict=True)]):
            inside = middle
        else:
            outside = middle
    return math.exp(inside)


def as_reported(verdict: Verdict) -> list[dict[str, Any]]:
    """The history in the JSON report."""
    steps: list[dict[str, Any]] = json.loads(verdict.model_dump_json())["history"]
    return steps


def ends_where_the_verdict_stands(verdict: Verdict) -> None:
    last = verdict.history[-1]
    assert last.seen == verdict.seen
    assert last.measured == verdict.measured
    assert last.interval == verdict.interval


@pytest.mark.parametrize("exhaustive", [False, True])
def test_the_course_of_an_ablation_is_that_of_the_specification(
    vetting: Callable[..., Vetting], exhaustive: bool
) -> None:
    asked = vetting(exhaustive=exhaustive)
    verdict = asked.ablate(DIM).degrades(by=1.5, alpha=ALPHA)
    ends_where_the_verdict_stands(verdict)
    intervention = FixedAblation(ablation=asked.ablate(DIM).ablation)
    delta: list[float] = []
    tokens: list[int] = []
    steps = iter(as_reported(verdict))
    n_chunks = asked.measurement.n_chunks if exhaustive else len(verdict.history)
    assert (n_chunks > 3) == exhaustive
    for index in range(n_chunks):
        intact, ablated = asked.measurement.chunk(index, Intact(), intervention)
        delta += (ablated.nll_nats - intact.nll_nats).tolist()
        tokens += intact.tokens.tolist()
        step = next(steps)
        assert step["seen"] == len(delta)
        assert step["measured"] == pytest.approx(math.exp(math.fsum(delta) / sum(tokens)))
        if exhaustive and index == n_chunks - 1:
            assert step["interval"] is None
        elif len(delta) < 32:
            assert step["interval"] == [0.0, "inf"]
        else:
            ends = [end_of_interval(delta, tokens, direction) for direction in (-1, 1)]
            assert step["interval"] == pytest.approx(ends, rel=1e-6)
    assert next(steps, None) is None


def excluded_by_the_sign_test(n: int, k: int) -> bool:
    """Whether k of n draws are too few for a half: the mixture's integral reaches 1/alpha."""
    # 2^(n+1) times the integral of p^k (1-p)^(n-k) over [0, 1/2], by the binomial theorem.
    terms = (
        Fraction((-1) ** j * math.comb(n - k, j), (k + j + 1) * 2 ** (k + j + 1))
        for j in range(n - k + 1)
    )
    return bool(2 ** (n + 1) * sum(terms) >= 1 / ALPHA)


def test_the_course_of_the_random_control_is_that_of_the_specification(
    vetting: Callable[..., Vetting],
) -> None:
    verdict = vetting(exhaustive=True).ablate_random(1).is_harmless(within=1.1, alpha=ALPHA)
    ends_where_the_verdict_stands(verdict)
    draws = verdict.details.draws
    assert draws is not None
    ratios = draws.by_draw
    steps = as_reported(verdict)
    assert len(steps) > 3
    assert steps[-1]["draws"] == len(ratios) == draws.draws >= 64
    assert draws.worst[0].measured == max(ratios)
    assert statistics.median(map(math.log, ratios)) == pytest.approx(
        math.log(verdict.measured or 0)
    )
    for step in steps:
        ordered = sorted(ratios[: step["draws"]])
        n = len(ordered)
        assert math.log(step["measured"]) == pytest.approx(
            statistics.median(map(math.log, ordered))
        )
        if n < 64:
            assert step["interval"] == [0.0, "inf"]
        else:
            limit = max(k for k in range(n // 2) if excluded_by_the_sign_test(n, k))
            assert step["interval"] == pytest.approx([ordered[limit], ordered[-1 - limit]])


def test_every_kind_of_verdict_ends_where_its_course_does(
    vetting: Callable[..., Vetting],
) -> None:
    asked = vetting()
    verdicts = [
        asked.intact().beats_uniform_guess(alpha=ALPHA),
        asked.ablate(DIM).matters_more_than_chance(factor=5, alpha=ALPHA),
        asked.ablate(DIM + 1).is_harmless(within=1.5, alpha=ALPHA),
        asked.layer_sweep([DIM]).recorded(alpha=ALPHA),
    ]
    for verdict in verdicts:
        assert verdict.history
        ends_where_the_verdict_stands(verdict)
        assert Verdict.model_validate_json(verdict.model_dump_json()) == verdict


def test_infinite_draws_are_text() -> None:
    draws = DrawFigures(draws=2, mean=math.inf, by_draw=(1.5, math.inf))
    verdict = Verdict(outcome="fail", statement="c", details=Details(draws=draws))
    found = json.loads(verdict.model_dump_json())
    assert found["details"]["draws"]["by_draw"] == [1.5, "inf"]
    assert found["history"] == []


@given(n=st.integers(0, 400), most=st.integers(4, 80))
def test_a_long_course_is_thinned_and_keeps_both_ends(n: int, most: int) -> None:
    steps = [HistoryEntry(seen=16 * (index + 1), measured=1.0) for index in range(n)]
    kept = thinned(steps, most=most)
    assert len(kept) == n if n <= most else most // 2 <= len(kept) <= most
    assert [*kept[:1], *kept[-1:]] == [*steps[:1], *steps[-1:]]
    places = [step.seen for step in kept]
    assert places == sorted(set(places))
    assert all(step in steps for step in kept)


def test_thinning_leaves_no_gap_that_hides_the_beginning() -> None:
    steps = [HistoryEntry(seen=index, measured=1.0) for index in range(1, 1001)]
    places = np.array([step.seen for step in thinned(steps)])
    assert {1, 2, 3, 4, 5} <= set(places.tolist())
    assert np.diff(places).max() <= 2 * 1000 / 32


def test_an_interval_closes_in(vetting: Callable[..., Vetting]) -> None:
    """Not at every look, but from the first that excludes anything to the last."""
    verdict = vetting(exhaustive=True).ablate(DIM).degrades(by=1.5, alpha=ALPHA)
    widths = [s.interval[1] - s.interval[0] for s in verdict.history if s.interval]
    finite = [width for width in widths if math.isfinite(width)]
    assert len(finite) > 3
    assert finite[-1] < finite[0]
