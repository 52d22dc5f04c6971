"""Error rates of decisions beside a reference, at the exact boundary, on real pairs of models.

As in :mod:`tests.statistics.test_verdict_calibration`: the threshold is the population's own value,
so that every decision is an error in one direction, in 20,000 random orders.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from robustness.statistics.decisions import FIRST_LOOK_AT_SHARES, decide_share
from robustness.statistics.effect_decisions import decide_effect
from tests.statistics.test_verdict_calibration import (
    Population,
    Rule,
    error_rates,
    ratio_rule,
    require_rare,
)

DATA = Path(__file__).parent / "data" / "pairs.json"
PAIRS: list[dict[str, Any]] = json.loads(DATA.read_text(encoding="utf-8"))["pairs"]
NAMES = [pair["name"].replace(" ", "-") for pair in PAIRS]
ALPHAS = (0.05, 0.01)

each_pair = pytest.mark.parametrize("pair", PAIRS, ids=NAMES)


def column(pair: dict[str, Any], name: str) -> NDArray[np.float64]:
    return np.array(pair[name], dtype=np.float64)


@each_pair
@pytest.mark.parametrize("name", ["paired", "changed", "kl"])
def test_a_mean_at_its_exact_value_is_rarely_decided(pair: dict[str, Any], name: str) -> None:
    """Perplexity, predictions and distributions are decided by one rule."""
    population = Population(
        name=pair["name"],
        checkpoint="",
        delta_nll=column(pair, name),
        tokens=column(pair, "tokens"),
    )
    assert population.delta_nll.any()
    first = 32 if name == "paired" else FIRST_LOOK_AT_SHARES
    rule = ratio_rule(population, first=first, alphas=ALPHAS)
    require_rare(error_rates(rule, np.arange(len(population.tokens))))


@each_pair
def test_an_effect_at_its_exact_multiple_is_rarely_decided(pair: dict[str, Any]) -> None:
    """The reference's effect stands in the place of token counts, the multiple in that of log θ."""
    effect, then = column(pair, "effect"), column(pair, "effect_then")
    population = Population(name=pair["name"], checkpoint="", delta_nll=effect, tokens=then)
    assert population.log_ratio > 0
    rule: Rule = ratio_rule(population, first=32, alphas=ALPHAS)
    require_rare(error_rates(rule, np.arange(len(then))))


@each_pair
def test_the_shipped_decisions_are_those_of_the_rule(pair: dict[str, Any]) -> None:
    """In a few orders: undecided at the exact value, decided far from it, exact at the end."""
    tokens, kl = column(pair, "tokens"), column(pair, "kl")
    effect, then = column(pair, "effect"), column(pair, "effect_then")
    exact, multiple = kl.sum() / tokens.sum(), effect.sum() / then.sum()
    generator = np.random.default_rng(3)
    for _ in range(20):
        order = generator.permutation(len(tokens))[:64]
        far: dict[str, Any] = {"alpha": 0.001, "most": np.inf}
        at = decide_share(kl[order], tokens[order], threshold=exact, **far)
        assert at.side is None
        assert decide_share(kl[order], tokens[order], threshold=100 * exact, **far).side == "below"
        pair_of = effect[order], then[order]
        bounds: dict[str, Any] = {"alpha": 0.001, "total": len(tokens)}
        for least, most in ((multiple, 50.0), (0.01, multiple)):
            assert decide_effect(*pair_of, least=least, most=most, **bounds).side is None
    ends = decide_effect(effect, then, least=0.9 * multiple, most=1.1 * multiple, **bounds)
    if ends.unresolved is None:
        assert (ends.exact, ends.side) == (True, ends.passes)
    assert ends.measured == pytest.approx(multiple)


def planted(times: float, *, n: int = 256, noise: float = 0.5, seed: int = 0) -> list[Any]:
    generator = np.random.default_rng(seed)
    then = generator.normal(4.0, 1.0, n)
    return [times * then + generator.normal(0, noise, n), then]


@pytest.mark.parametrize(
    ("times", "outcome"),
    [(0.0, ("below", 0.5, "above")), (0.2, ("below", 0.5, "above")), (1.0, "kept"),
     (3.0, ("above", 2.0, "below")), (-1.0, ("below", 0.5, "above"))],
    ids=["gone", "mostly gone", "kept", "grown", "reversed"],
)  # fmt: skip
def test_an_effect_that_is_gone_or_has_grown_fails(times: float, outcome: Any) -> None:
    delta, then = planted(times)
    for n in (64, 256):
        found = decide_effect(delta[:n], then[:n], least=0.5, most=2.0, alpha=0.001, total=256)
        assert found.unresolved is None
        if outcome == "kept":
            assert found.side == found.passes
        else:
            assert (found.side, found.threshold, found.passes) == outcome


@pytest.mark.parametrize(
    ("then_mean", "noise", "said"),
    [(0.01, 3.0, "too little for 256 text blocks"), (-1.0, 0.1, "loses nothing by it")],
    ids=["too small", "harmless in the reference"],
)
def test_what_the_text_cannot_resolve_is_said(then_mean: float, noise: float, said: str) -> None:
    generator = np.random.default_rng(0)
    then = generator.normal(then_mean, 1.0 if then_mean > 0 else 0.1, 256)
    delta = then + generator.normal(0, noise, 256)
    for n in (64, 256):
        found = decide_effect(delta[:n], then[:n], least=0.5, most=2.0, alpha=0.001, total=256)
        assert found.side is None
        assert said in (found.unresolved or "")


@pytest.mark.parametrize(
    ("delta", "then", "kept", "number"),
    [
        ([np.inf, 1.0], [np.inf, 1.0], True, 1.0),
        ([np.inf, 1.0], [2.0, 1.0], False, np.inf),
        ([2.0, 1.0], [np.inf, 1.0], False, 0.0),
    ],
    ids=["both", "now", "then"],
)
def test_infinite_effects_are_compared(
    delta: list[float], then: list[float], kept: bool, number: float
) -> None:
    found = decide_effect(delta, then, least=0.5, most=2.0, alpha=0.01, total=2)
    assert (found.side == found.passes) is kept
    assert found.measured == number
    assert found.exact


def test_what_may_be_lost_of_a_divergence_widens_its_interval_also_at_the_end() -> None:
    kl, tokens = np.full(64, 0.5), np.full(64, 100)
    rule: dict[str, Any] = {"threshold": 0.006, "alpha": 0.01, "most": np.inf, "exhausted": True}
    assert decide_share(kl, tokens, **rule).side == "below"
    open_ = decide_share(kl, tokens, **rule, slack=0.2)
    assert (open_.side, open_.exact) == (None, False)
    assert open_.interval == pytest.approx((0.003, 0.007))
    assert decide_share(kl, tokens, **rule, slack=0.05).side == "below"
