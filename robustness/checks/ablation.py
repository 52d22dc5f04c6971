"""What switching dimensions off does to perplexity, and the checks that ask for it.

Kovaleva et al. 2021, "BERT Busters: Outlier Dimensions that Disrupt Transformers".
"""

from collections.abc import Iterable, Sequence
from typing import Unpack

from pydantic import Field

from robustness.ablation.ablation import Ablation
from robustness.ablation.interventions import FixedAblation, Intervention
from robustness.checks.check import Check, PlanContext, joint_suffix
from robustness.checks.control import RandomlyAblatedModel
from robustness.checks.limits import Limits, OptInLimits, Ratio
from robustness.checks.planned import PlannedCheck
from robustness.checks.statistic import Degradation
from robustness.checks.subject import Level, Model, Subject, where
from robustness.measurement.evidence import intervention_evidence
from robustness.outliers.outlier_dimensions import named
from robustness.statistics.decisions import Decision, Side
from robustness.statistics.loop import Decided
from robustness.statistics.verdict import Verdict


class DegradedModel(Model):
    """A model under an intervention, whose ratio of perplexities is decided on."""

    def degradation(
        self, intervention: Intervention, statement: str, threshold: float, alpha: float
    ) -> Decided[Decision]:
        """On which side of a threshold the ratio lies."""
        return self.decided(
            statement,
            Degradation(threshold=threshold, alpha=alpha),
            lambda judge: intervention_evidence(self.subject.measurement, [intervention], judge),
        )


class AblatedModel(DegradedModel):
    """A model without some dimensions; see :meth:`robustness.vetting.Vetting.ablate`."""

    questions = ".degrades(by=…), .is_harmless(within=…) or .matters_more_than_chance()"

    def __init__(self, subject: Subject, ablation: Ablation) -> None:
        super().__init__(subject)
        self.ablation = ablation

    def __repr__(self) -> str:
        return f"<{self.subject.checkpoint.label} without {named(self.ablation.dims)}>"

    def degrades(self, *, by: float, **level: Unpack[Level]) -> Verdict:
        """Whether the ablation multiplies perplexity by at least ``by``."""
        growth = self.subject.quantity.grows("at least", by)
        return self._compared(growth, by, self.subject.alpha(**level), passes="above")

    def is_harmless(self, *, within: float, **level: Unpack[Level]) -> Verdict:
        """Whether the ablation multiplies perplexity by less than ``within``."""
        growth = self.subject.quantity.grows("less than", within)
        return self._compared(growth, within, self.subject.alpha(**level), passes="below")

    def matters_more_than_chance(self, *, factor: float = 5.0, **level: Unpack[Level]) -> Verdict:
        """Whether its ΔNLL is at least ``factor`` times that of as many random dimensions."""
        control = RandomlyAblatedModel(self.subject, len(self.ablation.dims), self.ablation)
        return control.decide_factor(self.ablation, factor, self.subject.alpha(**level))

    def _compared(self, growth: str, threshold: float, alpha: float, *, passes: Side) -> Verdict:
        statement = f"ablating {where(self.ablation)} {growth}"
        end = self.degradation(FixedAblation(ablation=self.ablation), statement, threshold, alpha)
        return self.verdict(end, statement, passes=passes, threshold=threshold, alpha=alpha)


class DegradationLimits(Limits):
    """How much an ablation has to do, or may do."""

    min_ratio: Ratio = Field(default=1.5, description="perplexity must grow by this factor (paper)")
    max_ratio: Ratio = Field(default=1.10, description="… must stay below this factor (hardened)")


class AblationDegradesLimits(DegradationLimits):
    """Ablating one outlier dimension alone."""

    min_ratio: Ratio = Field(
        default=1.05, description="perplexity must grow by this factor (paper)"
    )


class DegradationCheck(Check[DegradationLimits]):
    """That ablating outlier dimensions does harm, or that it does none, as is expected."""

    in_baseline = is_claim = True

    def decide(self, planned: PlannedCheck, subject: Subject, *, alpha: float) -> Verdict:
        limits = self.limits_in(subject.terms)
        model = AblatedModel(subject, subject.ablation(planned.dims))
        if not subject.terms.hardened:
            return model.degrades(by=limits.min_ratio, alpha=alpha)
        return model.is_harmless(within=limits.max_ratio, alpha=alpha)


class AblationDegrades(DegradationCheck):
    """Ablating one outlier dimension alone multiplies perplexity by at least ``min_ratio``."""

    name, title = "ablation_degrades", "ablation"
    limits = AblationDegradesLimits
    role, by_dimension = "alone", True

    def cases(self, context: PlanContext) -> Iterable[PlannedCheck]:
        return (self.case((dim,), f"dim{dim}") for dim in context.dims)

    def row(self, dims: Sequence[int]) -> str:
        return f"dimension {', '.join(map(str, dims))}"


class JointAblationDegrades(DegradationCheck):
    """Ablating all outlier dimensions multiplies perplexity by at least ``min_ratio``."""

    name, title = "joint_ablation_degrades", "joint ablation"
    limits = DegradationLimits
    role = "joint"

    def row(self, dims: Sequence[int]) -> str:
        return "all (the one)" if len(dims) == 1 else f"all {len(dims)} together"


class HarmlessLimits(OptInLimits):
    """Ablating dimensions in another place, or other dimensions in the same."""

    max_ratio: Ratio = Field(default=1.5, description="must stay below this factor")


class MagnitudeAloneIsHarmless(Check[HarmlessLimits]):
    """As many dimensions that are extreme in single layers only stay below ``max_ratio``."""

    name, title = "magnitude_alone_is_harmless", "magnitude alone is harmless"
    limits = HarmlessLimits
    site: str | None = None

    def cases(self, context: PlanContext) -> Iterable[PlannedCheck]:
        profile = context.model_profile
        if profile.distinct_sites < 2:
            why = "all layers share one site, so nothing can lack consistency over layers"
            yield self.not_applicable(why, "shared")
            return
        dims = tuple(sorted(profile.detection.magnitude[: len(context.dims)]))
        yield self.case(dims, f"dims{dims[0]}" if len(dims) == 1 else joint_suffix(dims))

    def decide(self, planned: PlannedCheck, subject: Subject, *, alpha: float) -> Verdict:
        model = AblatedModel(subject, subject.ablation(planned.dims, site=self.site))
        return model.is_harmless(within=self.limits_in(subject.terms).max_ratio, alpha=alpha)

    def row(self, dims: Sequence[int]) -> str:
        return f"{len(dims)} extreme in one layer"


class EmbeddingNormAloneIsHarmless(MagnitudeAloneIsHarmless):
    """Ablating them at the norm behind the embedding only stays below ``max_ratio``."""

    name, title = "embedding_norm_alone_is_harmless", "embedding norm alone is harmless"
    site = "embedding-norm"

    def cases(self, context: PlanContext) -> Iterable[PlannedCheck]:
        if self.site not in context.model_profile.sites:
            why = "the model has no norm of that width between its embedding and its first layer"
            yield self.not_applicable(why, "no-norm")
        else:
            yield self.case(context.dims, joint_suffix(context.dims))

    def row(self, dims: Sequence[int]) -> str:
        return "at embedding norm"
