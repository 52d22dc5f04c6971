"""Error rates of the decision rules at the exact boundary, on real ΔNLLs.

The threshold of every simulation is the exact value of the whole population, where every decision
is an error in one of the directions; far from it a rule cannot err and proves nothing. Each
population is seen in 20,000 random orders, without replacement as in a run, and looked at after
every chunk until its last. The rules are the shipped functions, on arrays of orders.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from robustness.scoring.sampling import DrawClock
from robustness.scoring.scoring_plan import CHUNK_BLOCKS as CHUNK
from robustness.statistics.decisions import decide_ratio
from robustness.statistics.sequential import (
    blind_share,
    mean_side,
    median_side,
    ratio_side,
    summarise,
)

ORDERS = 20_000
BATCH = 500
ALPHAS = (0.05, 0.01, 0.001)

Rule = Callable[[NDArray[np.int64]], NDArray[np.int8]]
"""From orders, shape (orders, n), to sides at each look, shape (orders, looks)."""


@dataclass(frozen=True, kw_only=True)
class Population:
    name: str
    checkpoint: str
    delta_nll: NDArray[np.float64]
    tokens: NDArray[np.float64]

    @property
    def log_ratio(self) -> float:
        return float(self.delta_nll.sum() / self.tokens.sum())

    def looks(self, first: int) -> NDArray[np.int64]:
        """Every chunk before the last: with the last one the value is known."""
        return np.arange(first, len(self.tokens), CHUNK)


def populations(kind: str) -> tuple[Population, ...]:
    path = Path(__file__).parent / "data" / "delta_nlls.json"
    stored = json.loads(path.read_text(encoding="utf-8"))
    assert stored["schema"] == 1
    return tuple(
        Population(
            name=entry["name"],
            checkpoint=entry.get("checkpoint", entry["name"].split()[0]),
            delta_nll=np.array(entry["delta_nll"]),
            tokens=np.array(entry["tokens"], dtype=np.float64),
        )
        for entry in stored["populations"]
        if entry["kind"] == kind
    )


def draw_numbers(tokens: NDArray[np.float64]) -> NDArray[np.int64]:
    """The random draw that each text block belongs to, as in a run."""
    return np.array(DrawClock().assign(tokens.astype(int).tolist()))


def per_draw(numbers: NDArray[np.int64], values: NDArray[np.float64]) -> NDArray[np.float64]:
    sums: NDArray[np.float64] = np.bincount(numbers, values).astype(np.float64)
    return sums


def ratio_rule(population: Population, alpha: float, *, first: int) -> Rule:
    """The rule for a ratio with the threshold at the population's own."""

    def rule(order: NDArray[np.int64]) -> NDArray[np.int8]:
        return ratio_side(
            population.delta_nll[order],
            population.tokens[order],
            log_threshold=population.log_ratio,
            alpha=alpha,
            looks=population.looks(first),
        )

    return rule


def error_rates(rule: Rule, groups: NDArray[np.int64]) -> tuple[float, float]:
    """Shares of the random orders whose first decision is *below*, and *above*.

    Args:
        rule: decides at each look.
        groups: numbers from 0 on; the members of one group follow each other in every order.
    """
    rng = np.random.default_rng(1)
    alone = len(np.unique(groups)) == len(groups)
    below = above = 0
    for _ in range(ORDERS // BATCH):
        order = rng.permuted(np.tile(np.arange(groups.max() + 1), (BATCH, 1)), axis=1)
        if not alone:
            order = np.argsort(order[:, groups], axis=1, kind="stable")
        sides = rule(order)
        first = sides[np.arange(BATCH), (sides != 0).argmax(axis=1)]
        below += int((first < 0).sum())
        above += int((first > 0).sum())
    return below / ORDERS, above / ORDERS


def _ids(found: tuple[Population, ...]) -> list[str]:
    return [population.name.replace(" ", "-") for population in found]


FIXED = populations("fixed")
CHANGED = populations("changed")
DRAWS = populations("draws")


@dataclass(frozen=True, kw_only=True)
class Pair:
    """A harmful fixed ablation beside random ones on the same text blocks, pass after pass."""

    name: str
    joint: NDArray[np.float64]
    control: NDArray[np.float64]
    tokens: NDArray[np.float64]


def pairs() -> Iterator[Pair]:
    for control in DRAWS:
        for fixed in FIXED:
            passes, rest = divmod(len(control.tokens), len(fixed.tokens))
            if fixed.checkpoint != control.checkpoint or rest:
                continue
            same_blocks = np.array_equal(np.tile(fixed.tokens, passes), control.tokens)
            if same_blocks and fixed.log_ratio > 0 and control.log_ratio > 0:
                yield Pair(
                    name=fixed.name,
                    joint=np.tile(fixed.delta_nll, passes),
                    control=control.delta_nll,
                    tokens=control.tokens,
                )


PAIRS = tuple(pairs())

by_alpha = pytest.mark.parametrize("alpha", ALPHAS)


def test_the_populations_are_real_and_several() -> None:
    assert len({population.checkpoint for population in FIXED}) >= 2
    assert DRAWS
    assert PAIRS
    assert all(len(population.tokens) >= 256 for population in (*FIXED, *DRAWS))


@by_alpha
@pytest.mark.parametrize("population", FIXED, ids=_ids(FIXED))
def test_a_fixed_ablation_at_its_exact_ratio_is_rarely_decided(
    population: Population, alpha: float
) -> None:
    alone = np.arange(len(population.tokens))
    below, above = error_rates(ratio_rule(population, alpha, first=32), alone)
    assert max(below, above) <= alpha, (below, above)


@by_alpha
@pytest.mark.parametrize("population", CHANGED, ids=_ids(CHANGED))
def test_a_share_of_changed_predictions_at_its_exact_value_is_rarely_decided(
    population: Population, alpha: float
) -> None:
    """The number of changed predictions stands in the place of ΔNLL, a share in that of log θ."""
    assert 0 < population.log_ratio < 1
    alone = np.arange(len(population.tokens))
    below, above = error_rates(ratio_rule(population, alpha, first=32), alone)
    assert max(below, above) <= alpha, (below, above)


@by_alpha
@pytest.mark.parametrize("population", DRAWS, ids=_ids(DRAWS))
def test_the_mean_of_random_draws_at_its_exact_ratio_is_rarely_decided(
    population: Population, alpha: float
) -> None:
    rule = ratio_rule(population, alpha, first=128)
    below, above = error_rates(rule, draw_numbers(population.tokens))
    assert max(below, above) <= alpha, (below, above)


@by_alpha
@pytest.mark.parametrize("population", DRAWS, ids=_ids(DRAWS))
def test_the_median_draw_at_its_exact_value_is_rarely_decided(
    population: Population, alpha: float
) -> None:
    numbers = draw_numbers(population.tokens)
    log_ratios = per_draw(numbers, population.delta_nll) / per_draw(numbers, population.tokens)
    log_ratios = log_ratios[: len(log_ratios) // 2 * 2]
    relative = log_ratios - np.median(log_ratios)
    assert (relative > 0).sum() == (relative < 0).sum() == len(relative) / 2
    looks = range(64, len(relative))

    def rule(order: NDArray[np.int64]) -> NDArray[np.int8]:
        return median_side(relative[order], alpha=alpha, looks=looks)

    below, above = error_rates(rule, np.arange(len(relative)))
    assert max(below, above) <= alpha, (below, above)


def mean_rule(values: NDArray[np.float64], alpha: float, *, step: int) -> Rule:
    """The rule for a mean, from 128 values on."""

    def rule(order: NDArray[np.int64]) -> NDArray[np.int8]:
        looks = np.arange(128, len(values), step)
        return mean_side(summarise(values[order], looks), alpha)

    return rule


@by_alpha
@pytest.mark.parametrize("pair", PAIRS, ids=[pair.name.replace(" ", "-") for pair in PAIRS])
def test_a_factor_at_its_exact_value_is_rarely_decided(pair: Pair, alpha: float) -> None:
    numbers = draw_numbers(pair.tokens)
    relative = pair.joint - pair.joint.sum() / pair.control.sum() * pair.control
    of_blocks = error_rates(mean_rule(relative, alpha, step=CHUNK), numbers)
    assert max(of_blocks) <= alpha, of_blocks
    sums = per_draw(numbers, relative)
    of_draws = error_rates(mean_rule(sums, alpha, step=CHUNK // 4), np.arange(len(sums)))
    assert max(of_draws) <= alpha, of_draws


def test_harm_that_a_draw_shares_needs_the_draw_as_the_unit() -> None:
    """Text blocks are no independent observations of a random draw that lasts for several."""
    rng = np.random.default_rng(7)
    numbers = np.repeat(np.arange(400), 5)
    values = rng.normal(0, 0.5, 2000) + np.where(numbers % 20 == 0, 3.0, 0.0)  # 5 % of the draws
    values -= values.mean()
    alpha = 0.01
    below, _ = error_rates(mean_rule(values, alpha, step=CHUNK), numbers)
    assert below > alpha
    sums = per_draw(numbers, values)
    of_draws = error_rates(mean_rule(sums, alpha, step=CHUNK // 4), np.arange(400))
    assert max(of_draws) <= alpha, of_draws


def test_an_effect_in_two_percent_of_the_blocks_fools_the_rule_as_documented() -> None:
    """No rule can allow for what it has not met; a *below* verdict says so by its blind share."""
    rng = np.random.default_rng(7)
    harmed = np.arange(1000) < 20
    population = Population(
        name="2 % of the blocks suffer 3 nats",
        checkpoint="none",
        delta_nll=np.where(harmed, 3.0, 0.0) + rng.normal(0, 0.01, 1000),
        tokens=np.full(1000, 19.0),
    )
    below, above = error_rates(ratio_rule(population, 0.01, first=32), np.arange(1000))
    assert below > 0.3  # a statement of at most 1 %
    assert above == 0
    assert blind_share(32, 0.01) > 0.02  # and the verdict says that it is blind to 2 %


def test_the_simulation_takes_the_decisions_that_users_get() -> None:
    population = FIXED[0]
    order = np.random.default_rng(3).permutation(len(population.tokens))
    delta, tokens = population.delta_nll[order], population.tokens[order]
    threshold = float(np.exp(population.log_ratio + 0.6 * delta.std() / tokens.mean()))
    looks = population.looks(32)
    simulated = ratio_side(
        delta, tokens, log_threshold=float(np.log(threshold)), alpha=0.05, looks=looks
    )
    asked = [
        decide_ratio(delta[:n], tokens[:n], threshold=threshold, alpha=0.05).side for n in looks
    ]
    assert [{1: "above", -1: "below", 0: None}[int(side)] for side in simulated] == asked
    assert set(asked) == {None, "below"}
