"""Whether the checkpoint is a working language model, and how many outlier dimensions it has."""

from collections.abc import Iterable
from typing import Unpack

from pydantic import Field, model_validator

from robustness.checks.check import Check, PlanContext
from robustness.checks.limits import Limits
from robustness.checks.planned import PlannedCheck
from robustness.checks.statistic import AgainstChance
from robustness.checks.subject import Level, Model, Subject
from robustness.measurement.evidence import intervention_evidence
from robustness.statistics.verdict import Verdict


class IntactModel(Model):
    """The model as it is; see :meth:`robustness.vetting.Vetting.intact`."""

    questions = ".beats_uniform_guess()"

    def beats_uniform_guess(self, **level: Unpack[Level]) -> Verdict:
        """Whether perplexity lies below the vocabulary size, that of a uniform guess.

        The verdict's number is perplexity / vocabulary size.
        """
        measurement, quantity = self.subject.measurement, self.subject.quantity
        chance, alpha = measurement.scoring_plan.chance_nats, self.subject.alpha(**level)
        statement = quantity.better_than_chance(self.subject.checkpoint.vocab_size, chance)
        statistic = AgainstChance(threshold=1.0, alpha=alpha, chance_nats=chance)
        end = self.decided(
            statement, statistic, lambda judge: intervention_evidence(measurement, (), judge)
        )
        return self.verdict(end, statement, passes="below", threshold=1.0)


class WeightsAreFiniteLimits(Limits):
    """All parameters are finite, and the intact model beats a uniform guess."""


class WeightsAreFinite(Check[WeightsAreFiniteLimits]):
    """All parameters are finite, and perplexity is finite and better than a uniform guess.

    A discriminator's loss has to be better than a guess at the base rate. Without a language-model
    head, it only looks at the parameters; what the model knows is asked by its task.
    """

    is_sanity = True
    name, title = "weights_are_finite", "weights are finite"
    limits = WeightsAreFiniteLimits
    source = "files"
    needs_outliers = False

    def cases(self, context: PlanContext) -> Iterable[PlannedCheck]:
        yield self.case(comparisons=int(context.language_model))

    def decide(self, planned: PlannedCheck, subject: Subject, *, alpha: float) -> Verdict:
        statement = "all parameters are finite numbers"
        if broken := subject.non_finite_tensors():
            reason = f"{len(broken)} tensors hold NaN or infinity, the first is {broken[0]}"
            return Verdict(outcome="fail", statement=statement, reason=reason)
        if subject.checkpoint.scoring == "task":
            return Verdict(outcome="pass", statement=statement)
        return IntactModel(subject).beats_uniform_guess(alpha=alpha)

    def finding(self, verdict: Verdict) -> str | None:
        if verdict.outcome == "pass":
            return None
        if verdict.measured is None:
            return verdict.reason or "it has numbers that are not finite"
        return "it is no better than a guess that reads no text"


class OutliersArePresentLimits(Limits):
    """How many outlier dimensions the rule may find."""

    min: int = Field(default=1, ge=0, description="fewest outlier dimensions (expectation paper)")
    max: int = Field(default=16, ge=0, description="most outlier dimensions (expectation paper)")

    @model_validator(mode="after")
    def _ordered(self) -> "OutliersArePresentLimits":
        if self.min > self.max:
            raise ValueError(f"min ({self.min}) must not be greater than max ({self.max})")
        return self


class OutliersArePresent(Check[OutliersArePresentLimits]):
    """The rule finds at least ``min`` and at most ``max`` outlier dimensions."""

    name, title = "outliers_are_present", "outliers are present"
    limits = OutliersArePresentLimits
    source, role, is_claim = "files", "presence", True
    needs_outliers = False

    def cases(self, context: PlanContext) -> Iterable[PlannedCheck]:
        yield self.case(context.dims, comparisons=0)

    def decide(self, planned: PlannedCheck, subject: Subject, *, alpha: float) -> Verdict:
        limits, outliers = self.limits_in(subject.terms), subject.outliers()
        if not subject.terms.hardened:
            return outliers.count_lies_within(limits.min, limits.max)
        return outliers.noted()
