"""The random control: what matters is which dimensions are ablated, not that some are."""

from collections.abc import Sequence

import numpy as np
from pydantic import Field

from robustness.ablation.ablation import Ablation
from robustness.checks.check import ControlCheck, Cost, PaperCheck
from robustness.checks.limits import Limits, Ratio
from robustness.checks.model import Model, random_dimensions, where
from robustness.checks.planned import PlannedCheck
from robustness.checks.statistic import EffectFactor, MedianOfDraws
from robustness.checks.subject import Subject
from robustness.checks.verdicts import intact_figures, precision_figures, scored, verdict
from robustness.measurement.evidence import ControlEvidence, control_evidence
from robustness.scoring.sampling import random_candidates, random_dims
from robustness.statistics.draw_decisions import MedianDecision
from robustness.statistics.figures import Details, DrawFigure, DrawFigures, FactorFigures
from robustness.statistics.loop import Grow, decided
from robustness.statistics.verdict import Verdict

DRAWS_FOR_MEDIAN, DRAWS_FOR_FACTOR = 64, 128
"""Draws before the first decision (STATISTICS.md)."""


class RandomlyAblatedModel(Model):
    """A model without random dimensions; see :meth:`robustness.vetting.Vetting.ablate_random`.

    Args:
        subject: the checkpoint.
        size: dimensions of a draw.
        template: where and how they are ablated, its own dimensions aside.
    """

    questions = ".is_harmless(within=…)"

    def __init__(self, subject: Subject, size: int, template: Ablation) -> None:
        super().__init__(subject)
        self._candidates = random_candidates(
            subject.outliers().dims, hidden_size=subject.model_profile.hidden_size, size=size
        )
        self._size = size
        self._template = template
        self._max_draws = RandomAblationIsHarmless().limits_in(subject.terms).max_draws

    def __repr__(self) -> str:
        return f"<{self.subject.checkpoint.label} without {random_dimensions(self._size)}>"

    def is_harmless(
        self, *, within: float, confidence: float | None = None, alpha: float | None = None
    ) -> Verdict:
        """Whether the typical (median) draw multiplies perplexity by less than ``within``."""
        subject, level = self.subject, self.subject.alpha(confidence, alpha)
        growth = subject.quantity.grows("less than", within)
        dims = f"{random_dimensions(self._size)}{self._template.where}"
        statement = f"the median ablation of {dims} {growth}"
        end = decided(
            MedianOfDraws(threshold=within, alpha=level, max_draws=self._max_draws),
            self._grow(None),
            exhaustive=subject.terms.exhaustive,
            watch=subject.watch(statement),
        )
        undecided = "the draws allowed by max_draws do not decide the median"
        return verdict(
            end,
            statement,
            threshold=within,
            passes="below",
            tokens=scored(end.evidence),
            details=Details(
                intact=intact_figures(subject, end.evidence.intact),
                draws=self._figures(end.evidence, end.decision),
                precision=precision_figures(end.evidence.comparison),
            ),
            reason="" if end.decision.side else undecided,
        )

    def decide_factor(self, joint: Ablation, factor: float, alpha: float) -> Verdict:
        """Whether the joint ΔNLL is positive and at least ``factor`` times the mean control's."""
        subject = self.subject
        statement = (
            f"ablating {where(joint)} adds at least {factor:g} times as many nats as ablating "
            f"{random_dimensions(self._size)}"
        )
        end = decided(
            EffectFactor(factor=factor, alpha=alpha, max_draws=self._max_draws),
            self._grow(joint),
            exhaustive=subject.terms.exhaustive,
            watch=subject.watch(statement),
        )
        means = end.decision
        return verdict(
            end,
            statement,
            threshold=factor,
            passes="above",
            measure="factor",
            tokens=scored(end.evidence),
            details=Details(
                intact=intact_figures(subject, end.evidence.intact),
                factor=FactorFigures(joint=means.joint_mean, control=means.control_mean),
                precision=precision_figures(end.evidence.comparison),
            ),
            reason=(
                f"{means.joint_mean:.3g} nats per text block against {means.control_mean:.3g} of "
                "the random control" + ("" if means.side else "; max_draws draws do not decide it")
            ),
        )

    def _grow(self, joint: Ablation | None) -> Grow[ControlEvidence]:
        return lambda judge: control_evidence(
            self.subject.measurement,
            judge,
            candidates=self._candidates,
            size=self._size,
            template=self._template,
            joint=joint,
        )

    def _figures(self, evidence: ControlEvidence, decision: MedianDecision) -> DrawFigures:
        with np.errstate(over="ignore"):
            ratios = np.exp(evidence.draw_delta_nll / evidence.draw_tokens).tolist()
        worst: dict[tuple[int, ...], float] = {}  # the same dimensions may be drawn twice
        for draw in decision.worst:
            seed = self.subject.terms.seed
            dims = random_dims(self._candidates, self._size, seed=seed, draw=draw)
            worst.setdefault(dims, ratios[draw])
        return DrawFigures(
            draws=len(ratios),
            mean=decision.mean,
            quantiles=dict(decision.quantiles),
            worst=tuple(DrawFigure(dims=dims, measured=ratio) for dims, ratio in worst.items()),
            by_draw=tuple(ratios),
        )


class RandomAblationIsHarmlessLimits(Limits):
    """Ablating as many random dimensions: the typical (median) draw."""

    max_ratio: Ratio = Field(
        default=1.10, description="the median draw must stay below this factor"
    )
    max_draws: int = Field(default=1000, ge=128, description="inconclusive after this many draws")


class RandomAblationIsHarmless(ControlCheck[RandomAblationIsHarmlessLimits]):
    """The median draw of as many non-outlier dimensions stays below ``max_ratio``."""

    name, title = "random_ablation_is_harmless", "random control"
    limits = RandomAblationIsHarmlessLimits

    def cost(self, planned: PlannedCheck) -> Cost:
        """Random draws."""
        return Cost(draws=DRAWS_FOR_MEDIAN)

    def decide(self, planned: PlannedCheck, subject: Subject, *, alpha: float) -> Verdict:
        model = RandomlyAblatedModel(subject, len(planned.dims), subject.ablation((0,)))
        return model.is_harmless(within=self.limits_in(subject.terms).max_ratio, alpha=alpha)

    def row(self, dims: Sequence[int]) -> str:
        """``3 random``."""
        return f"{len(dims)} random"


class OutliersMatterMoreThanChanceLimits(Limits):
    """The joint effect against the mean effect of random dimensions, in nats."""

    factor: Ratio = Field(
        default=5.0, description="joint ΔNLL must be this many times the control's"
    )


class OutliersMatterMoreThanChance(PaperCheck[OutliersMatterMoreThanChanceLimits]):
    """The joint ΔNLL is positive and at least ``factor`` times the mean control's."""

    name, title = "outliers_matter_more_than_chance", "effect over chance"
    limits = OutliersMatterMoreThanChanceLimits
    role = "factor"

    def cost(self, planned: PlannedCheck) -> Cost:
        """Random draws beside the joint ablation."""
        return Cost(ablations=(planned.dims,), draws=DRAWS_FOR_FACTOR)

    def decide(self, planned: PlannedCheck, subject: Subject, *, alpha: float) -> Verdict:
        joint = subject.ablation(planned.dims)
        control = RandomlyAblatedModel(subject, len(planned.dims), joint)
        return control.decide_factor(joint, self.limits_in(subject.terms).factor, alpha)
