"""A checkpoint beside its baseline: what is measured now, against what was saved."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar, Literal, Unpack

import numpy as np
from pydantic import Field

from robustness.ablation.ablation import Ablation
from robustness.ablation.interventions import FixedAblation
from robustness.checks.check import Check, Cost, PlanContext
from robustness.checks.limits import Limits, Tolerance
from robustness.checks.planned import PlannedCheck
from robustness.checks.subject import Level, Model, Subject, intact_figures
from robustness.measurement.evidence import intervention_evidence
from robustness.outliers.outliers import Detection
from robustness.reference.baseline import Flagged
from robustness.reference.comparison import PairedDecision, Pairing, outlier_verdict
from robustness.statistics.loop import Evidence, Statistic
from robustness.statistics.verdict import Verdict

OUTLIERS, PERPLEXITY = "outliers", "perplexity"
"""Parts of a comparison, beside the baseline's ablations."""


@dataclass(kw_only=True)
class PairedRatio(Statistic[PairedDecision]):
    """The ratio of a column to that of a baseline, on the same text blocks, against a tolerance."""

    pairing: Pairing
    column: str
    alpha: float

    def decide(self, evidence: Evidence) -> PairedDecision:
        now, tokens = evidence[self.column], evidence["tokens"]
        return self.pairing.decide(now, tokens, alpha=self.alpha, exhausted=evidence.whole)

    def most(self, evidence: Evidence) -> int:
        return len(self.pairing.then)


class AgainstBaseline(Model):
    """See :attr:`robustness.vetting.Vetting.baseline`; ask it for verdicts."""

    questions = ".keeps_outliers(), .keeps_perplexity(within=…) or .keeps_degradation(…)"

    def __init__(self, subject: Subject) -> None:
        super().__init__(subject)
        self.profile = subject.baseline_entry

    def keeps_outliers(self, allowed: str = "same") -> Verdict:
        """Whether the rule finds the same dimensions (or a ``subset``, ``superset``, ``any``)."""
        now = flagged(self.subject.outliers().detection)
        return outlier_verdict(self.profile.outliers, now, allowed=allowed)

    def keeps_perplexity(self, *, within: float, **level: Unpack[Level]) -> Verdict:
        """Whether perplexity is less than ``within`` times the baseline's, on its text blocks."""
        then = np.array(self.profile.nll_nats)
        pairing = Pairing(then=then, held=len(then), within=within)
        return self._compared(PERPLEXITY, pairing, None, self.subject.alpha(**level))

    def keeps_degradation(self, name: str, *, within: float, **level: Unpack[Level]) -> Verdict:
        """Whether an ablation of the baseline (``dim308``) does as much harm as then, or nearly.

        ``within`` is a factor above 1; less harm counts as much as more.
        """
        ablation = Ablation.from_dict(self.profile.ablated(name).ablation)
        then = self.profile.delta_nll(name)
        pairing = Pairing(then=then, held=len(then), within=within, dims=ablation.dims)
        return self._compared(f"ablation {name}", pairing, ablation, self.subject.alpha(**level))

    def _compared(
        self, what: str, pairing: Pairing, ablation: Ablation | None, alpha: float
    ) -> Verdict:
        """Always in float32, as what the baseline holds was measured."""
        column = "nll" if ablation is None else "delta"
        interventions = [] if ablation is None else [FixedAblation(ablation=ablation)]
        end = self.decided(
            what,
            PairedRatio(pairing=pairing, column=column, alpha=alpha),
            lambda _: intervention_evidence(
                self.subject.measurement, interventions, most_blocks=len(pairing.then)
            ),
        )
        return pairing.verdict(
            end.decision,
            end.evidence[column],
            end.evidence["tokens"],
            intact=intact_figures(self.subject, end.evidence),
            alpha=alpha,
            history=end.history,
        )


def flagged(detection: Detection) -> tuple[Flagged, ...]:
    """The outlier dimensions as a baseline holds them."""
    return tuple(
        Flagged(dim=outlier.dim, layers=tuple(outlier.layers)) for outlier in detection.outliers
    )


class MatchesBaselineLimits(Limits):
    """How far a checkpoint may be from a saved profile (``--robustness-baseline``)."""

    dims: Literal["same", "subset", "superset", "any"] = Field(
        default="same", description="outlier dimensions: same, none new, none gone, or any"
    )
    max_perplexity_ratio: Tolerance = Field(
        default=1.05, description="perplexity may be up to this many times the profile's"
    )
    max_degradation_ratio: Tolerance = Field(
        default=1.5, description="a degradation may differ by this factor, up or down"
    )


class MatchesBaseline(Check[MatchesBaselineLimits]):
    """Outlier dimensions, perplexity and degradations lie within tolerances of the baseline's."""

    name, title = "matches_baseline", "matches baseline"
    limits = MatchesBaselineLimits
    source: ClassVar[Literal["baseline"]] = "baseline"
    needs_outliers = False

    def cases(self, context: PlanContext) -> Iterable[PlannedCheck]:
        """One for the outlier dimensions, one for perplexity, one for each ablation it holds."""
        entry = context.baseline
        assert entry is not None
        yield self.case(entry.dims, OUTLIERS, statistical=False)
        yield self.case((), PERPLEXITY)
        yield from (self.case(ablated.dims, ablated.name) for ablated in entry.ablations)

    def cost(self, planned: PlannedCheck) -> Cost:
        return Cost() if planned.suffix == OUTLIERS else Cost(ablations=(planned.dims,))

    def decide(self, planned: PlannedCheck, subject: Subject, *, alpha: float) -> Verdict:
        limits, against = self.limits_in(subject.terms), AgainstBaseline(subject)
        if planned.suffix == OUTLIERS:
            return against.keeps_outliers(limits.dims)
        if planned.suffix == PERPLEXITY:
            return against.keeps_perplexity(within=limits.max_perplexity_ratio, alpha=alpha)
        within = limits.max_degradation_ratio
        return against.keeps_degradation(planned.suffix, within=within, alpha=alpha)
