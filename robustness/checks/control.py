"""The random control: what matters is which dimensions are ablated, not that some are."""

from collections.abc import Sequence
from typing import Unpack

import numpy as np
from pydantic import Field

from robustness.ablation.ablation import Ablation
from robustness.checks.check import ControlCheck, FactorCheck
from robustness.checks.limits import Limits, Ratio
from robustness.checks.planned import PlannedCheck
from robustness.checks.statistic import EffectFactor, MedianOfDraws
from robustness.checks.subject import Level, Model, Subject, random_dimensions, where
from robustness.measurement.evidence import control_evidence
from robustness.scoring.sampling import random_candidates, random_dims
from robustness.statistics.draw_decisions import MedianDecision
from robustness.statistics.figures import DrawFigure, DrawFigures, FactorFigures
from robustness.statistics.loop import Evidence, Grow
from robustness.statistics.verdict import Verdict


class RandomlyAblatedModel(Model):
    """A model without random dimensions; see :meth:`robustness.vetting.Vetting.ablate_random`.

    Where and how ``size`` of them are ablated is as in the template, its own dimensions aside.
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

    def is_harmless(self, *, within: float, **level: Unpack[Level]) -> Verdict:
        """Whether the typical (median) draw multiplies perplexity by less than ``within``."""
        growth = self.subject.quantity.grows("less than", within)
        dims = f"{random_dimensions(self._size)}{self._template.where}"
        statement = f"the median ablation of {dims} {growth}"
        alpha = self.subject.alpha(**level)
        statistic = MedianOfDraws(threshold=within, alpha=alpha, max_draws=self._max_draws)
        end = self.decided(statement, statistic, self._grow(None))
        undecided = "the draws allowed by max_draws do not decide the median"
        return self.verdict(
            end,
            statement,
            passes="below",
            threshold=within,
            details={"draws": self._figures(end.evidence, end.decision)},
            reason="" if end.decision.side else undecided,
        )

    def decide_factor(self, joint: Ablation, factor: float, alpha: float) -> Verdict:
        """Whether the joint ΔNLL is positive and at least ``factor`` times the mean control's."""
        statement = (
            f"ablating {where(joint)} adds at least {factor:g} times as many nats as ablating "
            f"{random_dimensions(self._size)}"
        )
        statistic = EffectFactor(factor=factor, alpha=alpha, max_draws=self._max_draws)
        end = self.decided(statement, statistic, self._grow(joint))
        means = FactorFigures(joint=end.decision.joint_mean, control=end.decision.control_mean)
        return self.verdict(
            end,
            statement,
            passes="above",
            threshold=factor,
            measure="factor",
            details={"factor": means},
            reason=(
                f"{means.joint:.3g} nats per text block against {means.control:.3g} of the random "
                "control" + ("" if end.decision.side else "; max_draws draws do not decide it")
            ),
        )

    def _grow(self, joint: Ablation | None) -> Grow:
        return lambda judge: control_evidence(
            self.subject.measurement,
            judge,
            candidates=self._candidates,
            size=self._size,
            template=self._template,
            joint=joint,
        )

    def _figures(self, evidence: Evidence, decision: MedianDecision) -> DrawFigures:
        with np.errstate(over="ignore"):
            ratios = np.exp(evidence.per_draw("delta") / evidence.per_draw("tokens")).tolist()
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

    def decide(self, planned: PlannedCheck, subject: Subject, *, alpha: float) -> Verdict:
        model = RandomlyAblatedModel(subject, len(planned.dims), subject.ablation((0,)))
        return model.is_harmless(within=self.limits_in(subject.terms).max_ratio, alpha=alpha)

    def row(self, dims: Sequence[int]) -> str:
        return f"{len(dims)} random"


class OutliersMatterMoreThanChanceLimits(Limits):
    """The joint effect against the mean effect of random dimensions, in nats."""

    factor: Ratio = Field(
        default=5.0, description="joint ΔNLL must be this many times the control's"
    )


class OutliersMatterMoreThanChance(FactorCheck[OutliersMatterMoreThanChanceLimits]):
    """The joint ΔNLL is positive and at least ``factor`` times the mean control's."""

    name, title = "outliers_matter_more_than_chance", "effect over chance"
    limits = OutliersMatterMoreThanChanceLimits

    def decide(self, planned: PlannedCheck, subject: Subject, *, alpha: float) -> Verdict:
        joint = subject.ablation(planned.dims)
        control = RandomlyAblatedModel(subject, len(planned.dims), joint)
        return control.decide_factor(joint, self.limits_in(subject.terms).factor, alpha)
