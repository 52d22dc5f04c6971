"""A checkpoint beside its baseline: what is measured now, against what was saved."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from robustness.ablation.ablation import Ablation
from robustness.ablation.interventions import FixedAblation
from robustness.checks.check import Check, Cost, PlanContext
from robustness.checks.limits import Limits, Tolerance
from robustness.checks.planned import PlannedCheck
from robustness.checks.subject import Subject
from robustness.checks.verdicts import intact_figures
from robustness.measurement.evidence import InterventionEvidence, intervention_evidence
from robustness.outliers.outliers import Detection
from robustness.reference.baseline import Flagged
from robustness.reference.comparison import (
    PairedDecision,
    change_of_delta,
    decide_paired,
    degradation_verdict,
    figures_of,
    outlier_verdict,
    perplexity_verdict,
)
from robustness.statistics.loop import Decided, Statistic, decided
from robustness.statistics.verdict import Verdict

OUTLIERS, PERPLEXITY = "outliers", "perplexity"
"""Parts of a comparison, beside the baseline's ablations."""

Change = Callable[[InterventionEvidence], NDArray[np.float64]]


@dataclass(kw_only=True)
class PairedRatio(Statistic[InterventionEvidence, PairedDecision]):
    """The ratio between two checkpoints on the same text blocks, against a tolerance.

    Attributes:
        change: what a text block's NLL, or ΔNLL, differs from the baseline's.
        within: tolerance, a ratio above 1.
        both_ways: whether its inverse is an end of the tolerance, too.
        alpha: error probability.
        held: text blocks that the baseline holds.
    """

    change: Change
    within: float
    both_ways: bool
    alpha: float
    held: int

    def decide(self, evidence: InterventionEvidence) -> PairedDecision:
        """See :func:`robustness.reference.comparison.decide_paired`."""
        return decide_paired(
            self.change(evidence),
            evidence.intact.tokens,
            within=self.within,
            both_ways=self.both_ways,
            alpha=self.alpha,
            exhausted=evidence.whole,
        )

    def most(self, evidence: InterventionEvidence) -> int:
        """All that the baseline holds."""
        return self.held


class AgainstBaseline:
    """See :attr:`robustness.vetting.Vetting.baseline`; ask it for verdicts."""

    def __init__(self, subject: Subject) -> None:
        self.subject = subject
        self.profile = subject.baseline_entry

    def keeps_outliers(self, allowed: str = "same") -> Verdict:
        """Whether the rule finds the same dimensions (or a ``subset``, ``superset``, ``any``)."""
        now = flagged(self.subject.model_profile.detection)
        return outlier_verdict(self.profile.outliers, now, allowed=allowed)

    def keeps_perplexity(
        self, *, within: float, confidence: float | None = None, alpha: float | None = None
    ) -> Verdict:
        """Whether perplexity is less than ``within`` times the baseline's, on its text blocks."""
        level, then = self.subject.alpha(confidence, alpha), np.array(self.profile.nll_nats)
        statistic = PairedRatio(
            change=lambda evidence: evidence.intact.nll_nats - then[: evidence.seen],
            within=within,
            both_ways=False,
            alpha=level,
            held=len(then),
        )
        end = self._decided(PERPLEXITY, statistic, None)
        intact = end.evidence.intact
        before = then[: end.evidence.seen]
        return perplexity_verdict(
            end.decision,
            figures=figures_of(before, intact.nll_nats, intact.tokens, len(then)),
            intact=intact_figures(self.subject, intact),
            history=end.history,
            alpha=level,
        )

    def keeps_degradation(
        self,
        name: str,
        *,
        within: float,
        confidence: float | None = None,
        alpha: float | None = None,
    ) -> Verdict:
        """Whether an ablation of the baseline does as much harm as then, within a factor.

        Args:
            name: of the ablation in the baseline: ``dim308``.
            within: the factor, above 1; less harm counts as much as more.
            confidence: of the verdict.
            alpha: its error probability.
        """
        level = self.subject.alpha(confidence, alpha)
        ablation = Ablation.from_dict(self.profile.ablated(name).ablation)
        then = self.profile.delta_nll(name)
        statistic = PairedRatio(
            change=lambda evidence: change_of_delta(evidence.delta_nll, then[: evidence.seen]),
            within=within,
            both_ways=True,
            alpha=level,
            held=len(then),
        )
        end = self._decided(f"ablation {name}", statistic, ablation)
        intact = end.evidence.intact
        before = then[: end.evidence.seen]
        return degradation_verdict(
            end.decision,
            ablation.dims,
            within=within,
            figures=figures_of(before, end.evidence.delta_nll, intact.tokens, len(then)),
            intact=intact_figures(self.subject, intact),
            history=end.history,
            alpha=level,
        )

    def _decided(
        self, what: str, statistic: PairedRatio, ablation: Ablation | None
    ) -> Decided[InterventionEvidence, PairedDecision]:
        """Always in float32, as what the baseline holds was measured."""
        interventions = [] if ablation is None else [FixedAblation(ablation=ablation)]
        return decided(
            statistic,
            lambda _: intervention_evidence(
                self.subject.measurement, interventions, most_blocks=statistic.held
            ),
            exhaustive=self.subject.terms.exhaustive,
            watch=self.subject.watch(what),
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
        """What its part measures."""
        return Cost() if planned.suffix == OUTLIERS else super().cost(planned)

    def decide(self, planned: PlannedCheck, subject: Subject, *, alpha: float) -> Verdict:
        limits, against = self.limits_in(subject.terms), AgainstBaseline(subject)
        if planned.suffix == OUTLIERS:
            return against.keeps_outliers(limits.dims)
        if planned.suffix == PERPLEXITY:
            return against.keeps_perplexity(within=limits.max_perplexity_ratio, alpha=alpha)
        within = limits.max_degradation_ratio
        return against.keeps_degradation(planned.suffix, within=within, alpha=alpha)
