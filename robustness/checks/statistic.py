"""The statistics of checks on text: what growing evidence is asked."""

from dataclasses import dataclass, replace
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from robustness.measurement.evidence import ControlEvidence, IntactEvidence, InterventionEvidence
from robustness.statistics.decisions import Decision, Side, decide_ratio
from robustness.statistics.draw_decisions import (
    FactorDecision,
    MedianDecision,
    decide_factor,
    decide_median,
)
from robustness.statistics.loop import Deltas, Evidence, Statistic
from robustness.statistics.precision import Precision, reduced_precision

E = TypeVar("E", bound=Evidence)
Tokens = NDArray[np.int64]


@dataclass(kw_only=True)
class AgainstChance(Statistic[IntactEvidence, Decision]):
    """Perplexity over that of a guess which reads no text, against 1.

    Attributes:
        chance_nats: of the guess, per token.
        alpha: error probability.
    """

    chance_nats: float
    alpha: float

    def decide(self, evidence: IntactEvidence) -> Decision:
        """See :func:`robustness.statistics.decisions.decide_ratio`."""
        return decide_ratio(
            evidence.nll_nats - self.chance_nats * evidence.tokens,
            evidence.tokens,
            threshold=1.0,
            alpha=self.alpha,
            exhausted=evidence.whole,
            slack_nats=evidence.slack_nats[0],
        )

    def costs(self, reduced: Deltas, full: Deltas, tokens: Tokens) -> tuple[Precision, ...]:
        chance = self.chance_nats * tokens
        pair = (reduced["nll"] - chance, full["nll"] - chance)
        return (reduced_precision(*pair, tokens, threshold=1.0),)

    def shown(
        self, evidence: IntactEvidence, decision: Decision | None
    ) -> tuple[str, tuple[float, float] | None]:
        """The number that the statement is about, from the first chunk on."""
        number = float(np.exp(evidence.mean_nll_nats - self.chance_nats))
        return f"{number:.4g}", None if decision is None else decision.interval


@dataclass(kw_only=True)
class Degradation(Statistic[InterventionEvidence, Decision]):
    """The corpus' ratio of perplexities, against a threshold."""

    threshold: float
    alpha: float

    def decide(self, evidence: InterventionEvidence) -> Decision:
        """See :func:`robustness.statistics.decisions.decide_ratio`."""
        return decide_ratio(
            evidence.delta_nll,
            evidence.intact.tokens,
            threshold=self.threshold,
            alpha=self.alpha,
            exhausted=evidence.whole,
            slack_nats=evidence.slack_nats[0],
        )

    def costs(self, reduced: Deltas, full: Deltas, tokens: Tokens) -> tuple[Precision, ...]:
        pair = (reduced["delta"], full["delta"])
        return (reduced_precision(*pair, tokens, threshold=self.threshold),)


@dataclass(frozen=True, kw_only=True)
class LayersDecision:
    """What is known of one ratio per layer.

    Attributes:
        side: ``below`` once all layers lie there, ``above`` once one does.
        layers: the decision on each.
    """

    side: Side | None
    layers: tuple[Decision, ...]

    @property
    def largest(self) -> Decision:
        """Of the layer with the largest ratio so far, which may be another one later."""
        return max(self.layers, key=lambda layer: layer.measured)

    @property
    def measured(self) -> float:
        """The largest ratio."""
        return self.largest.measured

    @property
    def interval(self) -> tuple[float, float] | None:
        """Of the layer with the largest ratio."""
        return self.largest.interval

    @property
    def exact(self) -> bool:
        """Whether the ratios are the corpus' own."""
        return self.largest.exact


@dataclass(kw_only=True)
class DegradationByLayer(Statistic[InterventionEvidence, LayersDecision]):
    """Every layer's ratio against one threshold; the layers share alpha."""

    threshold: float
    alpha: float

    def decide(self, evidence: InterventionEvidence) -> LayersDecision:
        """See :func:`robustness.statistics.decisions.decide_ratio`."""
        n_layers = len(evidence.deltas_nll)
        layers = tuple(
            decide_ratio(
                delta,
                evidence.intact.tokens,
                threshold=self.threshold,
                alpha=self.alpha / n_layers,
                exhausted=evidence.whole,
            )
            for delta in evidence.deltas_nll
        )
        sides = {layer.side for layer in layers}
        side: Side | None = "above" if "above" in sides else None
        return LayersDecision(side="below" if sides == {"below"} else side, layers=layers)


D = TypeVar("D", Decision, LayersDecision)


@dataclass(kw_only=True)
class Recorded(Statistic[E, D], Generic[E, D]):
    """A statistic that is compared with nothing: it ends after so much, and never takes sides.

    Attributes:
        statistic: whose number is recorded.
        enough: text blocks or examples after which it ends.
        total: of the corpus or task.
    """

    statistic: Statistic[E, D]
    enough: int
    total: int
    exhaustive: bool

    def decide(self, evidence: E) -> D | None:
        """The number so far."""
        decision = self.statistic.decide(evidence)
        return None if decision is None else replace(decision, side=None)

    def spent(self, evidence: E) -> bool:
        """After enough of it."""
        return evidence.seen >= self.enough

    def most(self, evidence: E) -> int:
        return self.total if self.exhaustive else min(self.total, self.enough)

    def shown(self, evidence: E, decision: D | None) -> tuple[str, tuple[float, float] | None]:
        return self.statistic.shown(evidence, decision)


@dataclass(kw_only=True)
class MedianOfDraws(Statistic[ControlEvidence, MedianDecision]):
    """The median ratio of random draws, against a threshold.

    Attributes:
        threshold: on the ratio.
        alpha: error probability.
        max_draws: after which it ends.
    """

    threshold: float
    alpha: float
    max_draws: int

    def decide(self, evidence: ControlEvidence) -> MedianDecision | None:
        """See :func:`robustness.statistics.draw_decisions.decide_median`."""
        if not len(evidence.draw_tokens):
            return None
        return decide_median(
            evidence.draw_delta_nll,
            evidence.draw_tokens,
            threshold=self.threshold,
            alpha=self.alpha,
            slack=evidence.slack_nats[0] / float(np.mean(evidence.tokens)),
        )

    def costs(self, reduced: Deltas, full: Deltas, tokens: Tokens) -> tuple[Precision, ...]:
        pair = (reduced["delta"], full["delta"])
        return (reduced_precision(*pair, tokens, threshold=self.threshold, of_draws=True),)

    def spent(self, evidence: ControlEvidence) -> bool:
        """After ``max_draws`` draws."""
        return len(evidence.draw_tokens) >= self.max_draws

    def most(self, evidence: ControlEvidence) -> int:
        """Text blocks after which ``max_draws`` draws, about as long as those so far, are done."""
        return _blocks_of_draws(evidence, self.max_draws)


@dataclass(kw_only=True)
class EffectFactor(Statistic[ControlEvidence, FactorDecision]):
    """The joint ΔNLL against a multiple of the mean control's.

    Attributes:
        factor: the multiple.
        alpha: error probability.
        max_draws: after which it ends.
    """

    factor: float
    alpha: float
    max_draws: int

    def decide(self, evidence: ControlEvidence) -> FactorDecision | None:
        """See :func:`robustness.statistics.draw_decisions.decide_factor`."""
        assert evidence.joint_delta_nll is not None
        slack = (*evidence.slack_nats, 0.0)[:2]
        # Text blocks of one draw share its harm: a draw is the unit, and only if complete.
        complete = evidence.draw < len(evidence.draw_tokens)
        if not complete.any():
            return None
        return decide_factor(
            evidence.joint_delta_nll[complete],
            evidence.delta_nll[complete],
            factor=self.factor,
            alpha=self.alpha,
            draws=evidence.draw[complete],
            joint_corpus_nats=None if any(slack) else evidence.joint_corpus_nats,
            slack_nats=(slack[0], slack[1]),
        )

    def costs(self, reduced: Deltas, full: Deltas, tokens: Tokens) -> tuple[Precision, ...]:
        pairs = (self._excess(reduced), self._excess(full)), (reduced["joint"], full["joint"])
        return tuple(reduced_precision(*pair, tokens, threshold=1.0) for pair in pairs)

    def _excess(self, deltas: Deltas) -> NDArray[np.float64]:
        return np.asarray(deltas["joint"] - self.factor * deltas["delta"])

    def spent(self, evidence: ControlEvidence) -> bool:
        """After ``max_draws`` draws."""
        return len(evidence.draw_tokens) >= self.max_draws

    def most(self, evidence: ControlEvidence) -> int | None:
        return _blocks_of_draws(evidence, self.max_draws)

    def shown(
        self,
        evidence: ControlEvidence,
        decision: FactorDecision | None,
    ) -> tuple[str, None]:
        """Both means."""
        if decision is None:
            return "", None
        means = f"{decision.joint_mean:.3g} and {decision.control_mean:.3g}"
        return f"{means} nats per text block", None


def _blocks_of_draws(evidence: ControlEvidence, draws: int) -> int:
    if not len(evidence.draw_tokens):
        return evidence.seen
    return round(evidence.seen * draws / len(evidence.draw_tokens))
