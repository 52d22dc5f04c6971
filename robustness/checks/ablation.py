"""What switching dimensions off does to perplexity, and the checks that ask for it.

Kovaleva et al. 2021, "BERT Busters: Outlier Dimensions that Disrupt Transformers".
"""

from collections.abc import Iterable, Sequence

from pydantic import Field

from robustness.ablation.ablation import Ablation
from robustness.ablation.interventions import FixedAblation, Intervention
from robustness.checks.check import Check, PlanContext
from robustness.checks.control import RandomlyAblatedModel
from robustness.checks.limits import Limits, Ratio
from robustness.checks.model import Model, where
from robustness.checks.planned import PlannedCheck
from robustness.checks.statistic import Degradation
from robustness.checks.subject import Subject
from robustness.checks.verdicts import (
    blindness,
    intact_figures,
    precision_figures,
    scored,
    verdict,
)
from robustness.measurement.evidence import InterventionEvidence, intervention_evidence
from robustness.outliers.outlier_dimensions import named
from robustness.statistics.decisions import Decision, Side
from robustness.statistics.figures import Details
from robustness.statistics.loop import Decided, decided
from robustness.statistics.verdict import Verdict


class AblatedModel(Model):
    """A model without some dimensions; see :meth:`robustness.vetting.Vetting.ablate`."""

    questions = ".degrades(by=…), .is_harmless(within=…) or .matters_more_than_chance()"

    def __init__(self, subject: Subject, ablation: Ablation) -> None:
        super().__init__(subject)
        self.ablation = ablation

    def __repr__(self) -> str:
        return f"<{self.subject.checkpoint.label} without {named(self.ablation.dims)}>"

    def degrades(
        self, *, by: float, confidence: float | None = None, alpha: float | None = None
    ) -> Verdict:
        """Whether the ablation multiplies perplexity by at least ``by``."""
        growth = self.subject.quantity.grows("at least", by)
        return self._decided(growth, by, self.subject.alpha(confidence, alpha), passes="above")

    def is_harmless(
        self, *, within: float, confidence: float | None = None, alpha: float | None = None
    ) -> Verdict:
        """Whether the ablation multiplies perplexity by less than ``within``."""
        growth = self.subject.quantity.grows("less than", within)
        return self._decided(growth, within, self.subject.alpha(confidence, alpha), passes="below")

    def matters_more_than_chance(
        self, *, factor: float = 5.0, confidence: float | None = None, alpha: float | None = None
    ) -> Verdict:
        """Whether its ΔNLL is at least ``factor`` times that of as many random dimensions."""
        control = RandomlyAblatedModel(self.subject, len(self.ablation.dims), self.ablation)
        level = self.subject.alpha(confidence, alpha)
        return control.decide_factor(self.ablation, factor, level)

    def _decided(self, growth: str, threshold: float, alpha: float, *, passes: Side) -> Verdict:
        statement = f"ablating {where(self.ablation)} {growth}"
        intervention = FixedAblation(ablation=self.ablation)
        end = decide_degradation(
            self.subject, intervention, statement, threshold=threshold, alpha=alpha
        )
        details = degradation_details(self.subject, end, alpha)
        return verdict(
            end,
            statement,
            threshold=threshold,
            passes=passes,
            tokens=scored(end.evidence.intact),
            details=details,
        )


def decide_degradation(
    subject: Subject, intervention: Intervention, statement: str, *, threshold: float, alpha: float
) -> Decided[InterventionEvidence, Decision]:
    """On which side of a threshold an intervention's ratio of perplexities lies."""
    return decided(
        Degradation(threshold=threshold, alpha=alpha),
        lambda judge: intervention_evidence(subject.measurement, [intervention], judge),
        exhaustive=subject.terms.exhaustive,
        watch=subject.watch(statement),
    )


def degradation_details(
    subject: Subject, end: Decided[InterventionEvidence, Decision], alpha: float
) -> Details:
    """What there is to say of any degradation."""
    return Details(
        intact=intact_figures(subject, end.evidence.intact),
        blind_share=blindness(end, alpha),
        precision=precision_figures(end.evidence.comparison),
    )


class DegradationLimits(Limits):
    """How much an ablation has to do, or may do."""

    min_ratio: Ratio = Field(default=1.5, description="perplexity must grow by this factor (paper)")
    max_ratio: Ratio = Field(default=1.10, description="… must stay below this factor (hardened)")


class AblationDegradesLimits(DegradationLimits):
    """Ablating one outlier dimension alone."""

    min_ratio: Ratio = Field(
        default=1.05, description="perplexity must grow by this factor (paper)"
    )


class JointAblationDegradesLimits(DegradationLimits):
    """Ablating all outlier dimensions together."""


def _decided_by_expectation(
    planned: PlannedCheck, subject: Subject, limits: DegradationLimits, alpha: float
) -> Verdict:
    model = AblatedModel(subject, subject.ablation(planned.dims))
    if subject.terms.expectation == "paper":
        return model.degrades(by=limits.min_ratio, alpha=alpha)
    return model.is_harmless(within=limits.max_ratio, alpha=alpha)


class AblationDegrades(Check[AblationDegradesLimits]):
    """Ablating one outlier dimension alone multiplies perplexity by at least ``min_ratio``."""

    name, title = "ablation_degrades", "ablation"
    limits = AblationDegradesLimits
    role, by_dimension, in_baseline = "alone", True, True

    def cases(self, context: PlanContext) -> Iterable[PlannedCheck]:
        return (self.case((dim,), f"dim{dim}") for dim in context.dims)

    def decide(self, planned: PlannedCheck, subject: Subject, *, alpha: float) -> Verdict:
        return _decided_by_expectation(planned, subject, self.limits_in(subject.terms), alpha)

    def row(self, dims: Sequence[int]) -> str:
        """``dimension 308``."""
        return f"dimension {', '.join(map(str, dims))}"


class JointAblationDegrades(Check[JointAblationDegradesLimits]):
    """Ablating all outlier dimensions multiplies perplexity by at least ``min_ratio``."""

    name, title = "joint_ablation_degrades", "joint ablation"
    limits = JointAblationDegradesLimits
    role, in_baseline = "joint", True

    def decide(self, planned: PlannedCheck, subject: Subject, *, alpha: float) -> Verdict:
        return _decided_by_expectation(planned, subject, self.limits_in(subject.terms), alpha)

    def row(self, dims: Sequence[int]) -> str:
        """``all 3 together``."""
        return "all (the one)" if len(dims) == 1 else f"all {len(dims)} together"


class MagnitudeAloneIsHarmlessLimits(Limits):
    """Ablating dimensions that are extreme in single layers only."""

    enabled: bool = Field(default=False, description="whether the check runs")
    max_ratio: Ratio = Field(default=1.5, description="must stay below this factor")


class MagnitudeAloneIsHarmless(Check[MagnitudeAloneIsHarmlessLimits]):
    """As many dimensions that are extreme in single layers only stay below ``max_ratio``."""

    name, title = "magnitude_alone_is_harmless", "magnitude alone is harmless"
    limits = MagnitudeAloneIsHarmlessLimits

    def cases(self, context: PlanContext) -> Iterable[PlannedCheck]:
        profile = context.model_profile
        if profile.distinct_sites < 2:
            why = "all layers share one site, so nothing can lack consistency over layers"
            yield self.not_applicable(why, "shared")
            return
        dims = tuple(sorted(profile.detection.magnitude[: len(context.dims)]))
        few = f"dims{'+'.join(map(str, dims))}"
        yield self.case(dims, few if len(dims) <= 4 else f"{len(dims)}dims")

    def decide(self, planned: PlannedCheck, subject: Subject, *, alpha: float) -> Verdict:
        model = AblatedModel(subject, subject.ablation(planned.dims))
        within = self.limits_in(subject.terms).max_ratio
        return model.is_harmless(within=within, alpha=alpha)

    def row(self, dims: Sequence[int]) -> str:
        """``3 extreme in one layer``."""
        return f"{len(dims)} extreme in one layer"


class EmbeddingNormAloneIsHarmlessLimits(Limits):
    """Ablating the outlier dimensions at the norm behind the embedding, and nowhere else."""

    enabled: bool = Field(default=False, description="whether the check runs")
    max_ratio: Ratio = Field(default=1.5, description="must stay below this factor")


class EmbeddingNormAloneIsHarmless(Check[EmbeddingNormAloneIsHarmlessLimits]):
    """Ablating them at the norm behind the embedding only stays below ``max_ratio``."""

    name, title = "embedding_norm_alone_is_harmless", "embedding norm alone is harmless"
    limits = EmbeddingNormAloneIsHarmlessLimits

    def cases(self, context: PlanContext) -> Iterable[PlannedCheck]:
        if "embedding-norm" not in context.model_profile.sites:
            why = "the model has no norm of that width between its embedding and its first layer"
            yield self.not_applicable(why, "no-norm")
        else:
            yield from super().cases(context)

    def decide(self, planned: PlannedCheck, subject: Subject, *, alpha: float) -> Verdict:
        model = AblatedModel(subject, subject.ablation(planned.dims, site="embedding-norm"))
        within = self.limits_in(subject.terms).max_ratio
        return model.is_harmless(within=within, alpha=alpha)

    def row(self, dims: Sequence[int]) -> str:
        return "at embedding norm"
