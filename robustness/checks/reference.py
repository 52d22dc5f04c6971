"""The checks of a candidate beside its reference."""

import math
from collections.abc import Iterable
from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from robustness.checks.against_reference import AgainstReference
from robustness.checks.check import Check, Cost, L, PlanContext, joint_suffix
from robustness.checks.limits import Limits, Tolerance
from robustness.checks.planned import PlannedCheck
from robustness.checks.subject import Subject
from robustness.statistics.verdict import Verdict

SAME = "the candidate is the reference"

SAME_RATIO = 5e-5
"""Ratios that lie no farther apart are called the same in words."""

OUTLIERS = "outliers"
"""The part of a test's id for the outlier dimensions themselves."""

Share = Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class ReferenceCheck(Check[L]):
    """What is asked of a candidate beside its reference."""

    source: ClassVar[Literal["reference"]] = "reference"
    needs_outliers = False
    of_distributions: ClassVar[bool] = False
    column: ClassVar[str]
    """The head of its column where candidates stand side by side."""

    def cases(self, context: PlanContext) -> Iterable[PlannedCheck]:
        """One; where a saved profile has not what it needs, none that applies."""
        reference = context.reference
        assert reference is not None
        if self.of_distributions and reference.is_saved:
            yield self.not_applicable("a saved profile holds no predictions; name the checkpoint")
        else:
            yield self.case(comparisons=int(self.decides(context)))

    def decides(self, context: PlanContext) -> bool:
        """Whether it is compared with a threshold: of a model changed on purpose not all are."""
        return context.terms.change == "conversion" or not self.of_distributions


class PerplexityIsKeptLimits(Limits):
    """Perplexity beside the reference's (``--reference``)."""

    max_ratio: Tolerance = Field(
        default=1.01, description="perplexity may be up to this many times the reference's"
    )


class PerplexityIsKept(ReferenceCheck[PerplexityIsKeptLimits]):
    """Perplexity is less than ``max_ratio`` times the reference's."""

    name, title = "perplexity_is_kept", "perplexity beside the reference's"
    column = "perplexity"
    limits = PerplexityIsKeptLimits

    def decide(self, planned: PlannedCheck, subject: Subject, *, alpha: float) -> Verdict:
        within = self.limits_in(subject.terms).max_ratio
        return AgainstReference(subject).keeps_perplexity(within=within, alpha=alpha)

    def finding(self, verdict: Verdict) -> str | None:
        if verdict.measured is None:
            return SAME if verdict.outcome == "pass" else None
        text = f"perplexity is {_beside(verdict.measured)} the reference's"
        end = verdict.measured
        if verdict.interval is not None:
            end = verdict.interval[verdict.outcome == "pass"]
        if not math.isfinite(end) or abs(end - verdict.measured) < SAME_RATIO:
            return text
        bound = "at least" if verdict.outcome == "fail" else "at most"
        return f"{text} ({bound} {_beside(end)})"


class PredictionsAreKeptLimits(Limits):
    """Most probable tokens beside the reference's."""

    max_share: Share = Field(
        default=0.05, description="so many of the scored positions may have another"
    )


class PredictionsAreKept(ReferenceCheck[PredictionsAreKeptLimits]):
    """At less than ``max_share`` of the scored positions the most probable token is another."""

    name, title = "predictions_are_kept", "predictions beside the reference's"
    column = "predictions"
    limits = PredictionsAreKeptLimits
    of_distributions = True

    def decide(self, planned: PlannedCheck, subject: Subject, *, alpha: float) -> Verdict:
        share = self.limits_in(subject.terms).max_share if planned.comparisons else None
        return AgainstReference(subject).keeps_predictions(share=share, alpha=alpha)

    def finding(self, verdict: Verdict) -> str | None:
        if verdict.measured is None:
            return None
        share = _percent(verdict.measured) if verdict.measured else "none"
        return f"{share} of the predictions differ{'s' * (not verdict.measured)}"


class DistributionsAreKeptLimits(Limits):
    """KL divergence per scored position from the reference."""

    max_nats: Positive = Field(default=0.005, description="its mean must stay below so many nats")


class DistributionsAreKept(ReferenceCheck[DistributionsAreKeptLimits]):
    """The mean KL divergence (reference ‖ candidate) is less than ``max_nats`` per position."""

    name, title = "distributions_are_kept", "distributions beside the reference's"
    column = "KL"
    limits = DistributionsAreKeptLimits
    of_distributions = True

    def decide(self, planned: PlannedCheck, subject: Subject, *, alpha: float) -> Verdict:
        nats = self.limits_in(subject.terms).max_nats if planned.comparisons else None
        return AgainstReference(subject).keeps_distributions(nats=nats, alpha=alpha)

    def finding(self, verdict: Verdict) -> str | None:
        if verdict.measured is None or verdict.outcome == "pass":
            return None
        return f"distributions lie {verdict.measured:.2g} nats per position from the reference's"


class OutliersAreKeptLimits(Limits):
    """Outlier dimensions, and the harm of ablating them, beside the reference's."""

    dims: Literal["same", "subset", "superset", "any"] = Field(
        default="same", description="outlier dimensions: same, none new, none gone, or any"
    )
    min_effect: Positive = Field(
        default=0.5, description="ablating all must add this many times the reference's nats"
    )
    max_effect: Positive = Field(default=2.0, description="… and no more than this many times")
    single: bool = Field(default=False, description="also ablate each of them alone")

    @model_validator(mode="after")
    def _in_order(self) -> "OutliersAreKeptLimits":
        if self.min_effect >= self.max_effect:
            raise ValueError(
                f"min_effect ({self.min_effect:g}) must be less than max_effect "
                f"({self.max_effect:g})"
            )
        return self


class OutliersAreKept(ReferenceCheck[OutliersAreKeptLimits]):
    """The same outlier dimensions, and ablating them does about as much harm."""

    name, title = "outliers_are_kept", "outliers beside the reference's"
    column = "outliers"
    limits = OutliersAreKeptLimits
    in_baseline = True

    def applies(self, context: PlanContext) -> bool:
        return context.reference is not None

    def cases(self, context: PlanContext) -> Iterable[PlannedCheck]:
        """One for the dimensions, one for the harm of all, and on request one for each alone."""
        reference, limits = context.reference, self.limits_in(context.terms)
        assert reference is not None
        if reference.hidden_size != context.model_profile.hidden_size:
            why = (
                f"hidden states have {context.model_profile.hidden_size} dimensions here and "
                f"{reference.hidden_size} in the reference"
            )
            yield self.not_applicable(why, OUTLIERS)
            return
        dims = tuple(outlier.dim for outlier in reference.outliers)
        yield self.case(dims, OUTLIERS, comparisons=0)
        if context.terms.change != "conversion" or not context.language_model:
            return
        if not dims:
            yield self.not_applicable("the reference has no outlier dimensions", "none")
            return
        yield self.case(dims, joint_suffix(dims), comparisons=2)
        if limits.single and len(dims) > 1:
            yield from (self.case((dim,), joint_suffix((dim,)), comparisons=2) for dim in dims)

    def cost(self, planned: PlannedCheck) -> Cost:
        return Cost(ablations=(planned.dims,)) if planned.comparisons else Cost()

    def decide(self, planned: PlannedCheck, subject: Subject, *, alpha: float) -> Verdict:
        limits, model = self.limits_in(subject.terms), AgainstReference(subject)
        if planned.suffix == OUTLIERS:
            return model.keeps_outliers(limits.dims)
        return model.keeps_effect(
            planned.dims, least=limits.min_effect, most=limits.max_effect, alpha=alpha
        )

    def finding(self, verdict: Verdict) -> str | None:
        if verdict.outcome != "fail":
            return None
        if verdict.measured is None:
            return f"outlier dimensions are others: {verdict.reason}"
        return f"ablating outlier dimensions does {verdict.measured:.2g} times the reference's harm"


def _beside(ratio: float) -> str:
    """A ratio to something in words: ``0.4 % above``, ``0.1 % below``, ``1.9 times``."""
    if not math.isfinite(ratio):
        return "infinitely far above"
    if abs(ratio - 1) < SAME_RATIO:
        return "the same as"
    if ratio >= 1.5:
        return f"{ratio:.3g} times"
    return f"{_percent(abs(ratio - 1))} {'above' if ratio >= 1 else 'below'}"


def _percent(share: float) -> str:
    """``1.1 %``, ``0.04 %``; a share below 0.01 % is said to be so."""
    if 0 < share < 1e-4:
        return "less than 0.01 %"
    return f"{100 * share:.{2 if share < 0.995 else 3}g} %"
