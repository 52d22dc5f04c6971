"""What switching dimensions off changes in the model's predictions."""

from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from robustness.ablation.interventions import FixedAblation
from robustness.checks.check import Check, Cost
from robustness.checks.limits import Limits
from robustness.checks.model import where
from robustness.checks.planned import PlannedCheck
from robustness.checks.subject import Subject
from robustness.checks.verdicts import blindness, intact_figures, scored, verdict
from robustness.measurement.evidence import PredictionEvidence, prediction_evidence
from robustness.statistics.decisions import Decision, Side, decide_share
from robustness.statistics.figures import Details
from robustness.statistics.loop import Statistic, decided
from robustness.statistics.verdict import Verdict

Share = Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)]


@dataclass(kw_only=True)
class ChangedShare(Statistic[PredictionEvidence, Decision]):
    """The share of scored positions whose most probable token changes, against a threshold."""

    threshold: float
    alpha: float

    def decide(self, evidence: PredictionEvidence) -> Decision:
        """See :func:`robustness.statistics.decisions.decide_share`."""
        return decide_share(
            evidence.changed,
            evidence.intact.tokens,
            threshold=self.threshold,
            alpha=self.alpha,
            exhausted=evidence.whole,
        )

    def shown(
        self,
        evidence: PredictionEvidence,
        decision: Decision | None,
    ) -> tuple[str, tuple[float, float] | None]:
        """The share, and its interval once there is one."""
        if decision is None:
            return "", None
        return f"{decision.measured:.4g}", decision.interval


class AblationChangesPredictionsLimits(Limits):
    """Share of scored positions whose most probable token changes."""

    enabled: bool = Field(default=False, description="whether the check runs")
    min_share: Share = Field(default=0.05, description="at least this share must change (paper)")
    max_share: Share = Field(default=0.02, description="… less than this share (hardened)")


class AblationChangesPredictions(Check[AblationChangesPredictionsLimits]):
    """Without all outlier dimensions at least ``min_share`` of the predictions are others."""

    name, title = "ablation_changes_predictions", "changed predictions"
    limits = AblationChangesPredictionsLimits

    def cost(self, planned: PlannedCheck) -> Cost:
        """A pass of each model, side by side."""
        return Cost(passes=2)

    def decide(self, planned: PlannedCheck, subject: Subject, *, alpha: float) -> Verdict:
        limits = self.limits_in(subject.terms)
        if subject.terms.expectation == "paper":
            return _decided(planned, subject, limits.min_share, alpha, passes="above")
        return _decided(planned, subject, limits.max_share, alpha, passes="below")


def _decided(
    planned: PlannedCheck, subject: Subject, threshold: float, alpha: float, *, passes: Side
) -> Verdict:
    ablation = subject.ablation(planned.dims)
    bound = "at least" if passes == "above" else "less than"
    statement = (
        f"ablating {where(ablation)} changes the most probable token of {bound} "
        f"{threshold:.4g} of the scored positions"
    )
    end = decided(
        ChangedShare(threshold=threshold, alpha=alpha),
        lambda _: prediction_evidence(subject.measurement, FixedAblation(ablation=ablation)),
        exhaustive=subject.terms.exhaustive,
        watch=subject.watch(statement),
    )
    intact = end.evidence.intact
    return verdict(
        end,
        statement,
        threshold=threshold,
        passes=passes,
        measure="share",
        tokens=scored(intact),
        details=Details(intact=intact_figures(subject, intact), blind_share=blindness(end, alpha)),
    )
