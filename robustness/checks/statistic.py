"""The statistics of checks on text: what growing evidence is asked.

Each is compared with a threshold at an error probability ``alpha``.
"""

import math
from dataclasses import dataclass, replace
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from robustness.statistics.decisions import (
    Decision,
    Side,
    decide_ratio,
    decide_share,
    reduced_precision,
)
from robustness.statistics.draw_decisions import (
    FactorDecision,
    MedianDecision,
    decide_factor,
    decide_median,
)
from robustness.statistics.effect_decisions import EffectDecision, decide_effect
from robustness.statistics.figures import PrecisionCost
from robustness.statistics.loop import Columns, Compared, Evidence, Statistic

D = TypeVar("D", bound=Decision)


@dataclass(kw_only=True)
class Degradation(Compared[Decision]):
    """The corpus' ratio of perplexities."""

    def decide(self, evidence: Evidence) -> Decision:
        return decide_ratio(
            self.added(evidence.columns),
            evidence["tokens"],
            threshold=self.threshold,
            alpha=self.alpha,
            exhausted=evidence.whole,
            slack_nats=evidence.slack_nats[0],
        )

    def added(self, columns: Columns) -> NDArray[np.float64]:
        """Nats per text block by whose mean the ratio is one."""
        return columns["delta"]

    def costs(self, reduced: Columns, full: Columns) -> tuple[PrecisionCost, ...]:
        pair = (self.added(reduced), self.added(full))
        return (reduced_precision(*pair, full["tokens"], threshold=self.threshold),)


@dataclass(kw_only=True)
class AgainstChance(Degradation):
    """Perplexity over that of a guess which reads no text, of ``chance_nats`` per token."""

    chance_nats: float

    def added(self, columns: Columns) -> NDArray[np.float64]:
        return np.asarray(columns["nll"] - self.chance_nats * columns["tokens"])

    def shown(
        self, evidence: Evidence, decision: Decision | None
    ) -> tuple[str, tuple[float, float] | None]:
        """The number that the statement is about, from the first chunk on."""
        number = float(np.exp(evidence.mean_nll_nats - self.chance_nats))
        return f"{number:.4g}", None if decision is None else decision.interval


@dataclass(frozen=True, kw_only=True)
class LayersDecision(Decision):
    """``below`` once all layers lie there, ``above`` once one does; the number is the largest."""

    layers: tuple[Decision, ...]


@dataclass(kw_only=True)
class DegradationByLayer(Compared[LayersDecision]):
    """Every layer's ratio against one threshold; the layers share alpha."""

    def decide(self, evidence: Evidence) -> LayersDecision:
        layers = tuple(
            decide_ratio(
                delta,
                evidence["tokens"],
                threshold=self.threshold,
                alpha=self.alpha / len(evidence.deltas),
                exhausted=evidence.whole,
            )
            for delta in evidence.deltas
        )
        sides = {layer.side for layer in layers}
        side: Side | None = "above" if "above" in sides else None
        largest = max(layers, key=lambda layer: layer.measured)
        joint_side = "below" if sides == {"below"} else side
        return LayersDecision(**{**vars(largest), "side": joint_side}, layers=layers)


@dataclass(kw_only=True)
class ChangedShare(Compared[Decision]):
    """The share of scored positions whose most probable token changes."""

    def decide(self, evidence: Evidence) -> Decision:
        return decide_share(
            evidence["changed"],
            evidence["tokens"],
            threshold=self.threshold,
            alpha=self.alpha,
            exhausted=evidence.whole,
        )

    def shown(
        self, evidence: Evidence, decision: Decision | None
    ) -> tuple[str, tuple[float, float] | None]:
        return ("", None) if decision is None else (f"{decision.measured:.4g}", decision.interval)


@dataclass(kw_only=True)
class KeptEffect(Statistic[EffectDecision]):
    """What an ablation adds, against ``least`` and ``most_times`` times what it adds elsewhere."""

    least: float
    most_times: float
    alpha: float
    _hopeless: bool = False

    def decide(self, evidence: Evidence) -> EffectDecision:
        decision = decide_effect(
            evidence["delta"],
            evidence["then"],
            least=self.least,
            most=self.most_times,
            alpha=self.alpha,
            total=evidence.total,
        )
        self._hopeless = decision.unresolved is not None
        return decision

    def spent(self, evidence: Evidence) -> bool:
        return self._hopeless


@dataclass(kw_only=True)
class Recorded(Statistic[D], Generic[D]):
    """Compared with nothing: it ends after ``enough`` text blocks or examples, without a side."""

    statistic: Statistic[D]
    enough: int
    exhaustive: bool

    def decide(self, evidence: Evidence) -> D | None:
        decision = self.statistic.decide(evidence)
        return None if decision is None else replace(decision, side=None)

    def spent(self, evidence: Evidence) -> bool:
        return evidence.seen >= self.enough

    def most(self, evidence: Evidence) -> int:
        return evidence.total if self.exhaustive else min(evidence.total, self.enough)

    def shown(
        self, evidence: Evidence, decision: D | None
    ) -> tuple[str, tuple[float, float] | None]:
        return self.statistic.shown(evidence, decision)


@dataclass(kw_only=True)
class OfDraws(Statistic[D], Generic[D]):
    """What random draws are asked; it ends after ``max_draws`` of them."""

    alpha: float
    max_draws: int

    def spent(self, evidence: Evidence) -> bool:
        return evidence.draws >= self.max_draws

    def most(self, evidence: Evidence) -> int:
        """Text blocks after which so many draws, about as long as those so far, are done."""
        if not evidence.draws:
            return evidence.seen
        return round(evidence.seen * self.max_draws / evidence.draws)


@dataclass(kw_only=True)
class MedianOfDraws(OfDraws[MedianDecision]):
    """The median ratio of random draws."""

    threshold: float

    def decide(self, evidence: Evidence) -> MedianDecision | None:
        if not evidence.draws:
            return None
        return decide_median(
            evidence.per_draw("delta"),
            evidence.per_draw("tokens"),
            threshold=self.threshold,
            alpha=self.alpha,
            slack=evidence.slack_nats[0] / float(np.mean(evidence["tokens"])),
        )

    def costs(self, reduced: Columns, full: Columns) -> tuple[PrecisionCost, ...]:
        threshold, pair = self.threshold, (reduced["delta"], full["delta"])
        return (reduced_precision(*pair, full["tokens"], threshold=threshold, of_draws=True),)


@dataclass(kw_only=True)
class EffectFactor(OfDraws[FactorDecision]):
    """The joint ΔNLL against a multiple, ``factor``, of the mean control's."""

    factor: float

    def decide(self, evidence: Evidence) -> FactorDecision | None:
        slack = (*evidence.slack_nats, 0.0)[:2]
        # Text blocks of one draw share its harm: a draw is the unit, and only if complete.
        complete = evidence["draw"] < evidence.draws
        if not complete.any():
            return None
        known = evidence.whole and not any(slack)
        return decide_factor(
            evidence["joint"][complete],
            evidence["delta"][complete],
            factor=self.factor,
            alpha=self.alpha,
            draws=evidence["draw"][complete],
            joint_corpus_nats=float(evidence.once["joint"].sum()) if known else None,
            slack_nats=(slack[0], slack[1]),
        )

    def costs(self, reduced: Columns, full: Columns) -> tuple[PrecisionCost, ...]:
        columns = [each[name] for each in (reduced, full) for name in ("joint", "delta")]
        if np.isinf(columns).any():  # a multiple of infinity is taken from infinity
            return (PrecisionCost(slack_nats=math.inf, distance_nats=math.inf),) * 2

        def cost(factor: float) -> PrecisionCost:
            excess = [each["joint"] - factor * each["delta"] for each in (reduced, full)]
            return reduced_precision(excess[0], excess[1], full["tokens"], threshold=1.0)

        return cost(self.factor), cost(0.0)

    def shown(self, evidence: Evidence, decision: FactorDecision | None) -> tuple[str, None]:
        if decision is None:
            return "", None
        means = f"{decision.joint_mean:.3g} and {decision.control_mean:.3g}"
        return f"{means} nats per text block", None
