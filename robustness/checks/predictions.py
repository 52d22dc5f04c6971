"""What switching dimensions off changes in the model's predictions."""

from typing import Annotated

from pydantic import Field

from robustness.ablation.interventions import FixedAblation
from robustness.checks.check import Check, Cost
from robustness.checks.limits import OptInLimits
from robustness.checks.planned import PlannedCheck
from robustness.checks.statistic import ChangedShare
from robustness.checks.subject import Model, Subject, where
from robustness.measurement.evidence import prediction_evidence
from robustness.statistics.verdict import Verdict

Share = Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)]


class AblationChangesPredictionsLimits(OptInLimits):
    """Share of scored positions whose most probable token changes."""

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
        limits, ablation = self.limits_in(subject.terms), subject.ablation(planned.dims)
        paper = not subject.terms.hardened
        threshold = limits.min_share if paper else limits.max_share
        statement = (
            f"ablating {where(ablation)} changes the most probable token of "
            f"{'at least' if paper else 'less than'} {threshold:.4g} of the scored positions"
        )
        model, intervention = Model(subject), FixedAblation(ablation=ablation)
        end = model.decided(
            statement,
            ChangedShare(threshold=threshold, alpha=alpha),
            lambda _: prediction_evidence(subject.measurement, intervention),
        )
        return model.verdict(
            end,
            statement,
            passes="above" if paper else "below",
            threshold=threshold,
            alpha=alpha,
            measure="share",
        )
