"""What each layer's own part in an ablation is: the same dimensions, in one layer at a time."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Unpack

from pydantic import Field

from robustness.ablation.ablation import Ablation
from robustness.checks.check import Check, PlanContext, joint_suffix
from robustness.checks.limits import OptInLimits, RatioOrRecord
from robustness.checks.planned import PlannedCheck
from robustness.checks.statistic import DegradationByLayer, LayersDecision, Recorded
from robustness.checks.subject import Level, Model, Subject, where
from robustness.measurement.evidence import layer_evidence
from robustness.statistics.figures import LayerFigure
from robustness.statistics.loop import Statistic
from robustness.statistics.verdict import Verdict

RECORDED_BLOCKS = 64
"""Text blocks of a sweep that is compared with nothing, unless the whole corpus is measured."""


class LayerSweep(Model):
    """A model without some dimensions in one layer at a time.

    See :meth:`robustness.vetting.Vetting.layer_sweep`.
    """

    questions = ".recorded() or .stays_below(…)"

    def __init__(self, subject: Subject, ablation: Ablation) -> None:
        super().__init__(subject)
        self.ablation = ablation

    def recorded(self, **level: Unpack[Level]) -> Verdict:
        """Every layer's own degradation, compared with nothing: it passes in any case."""
        statistic = Recorded(
            statistic=DegradationByLayer(threshold=1.0, alpha=self.subject.alpha(**level)),
            enough=RECORDED_BLOCKS,
            exhaustive=self.subject.terms.exhaustive,
        )
        return self._decided("is recorded", statistic, None)

    def stays_below(self, within: float, **level: Unpack[Level]) -> Verdict:
        """Whether every layer's own degradation is less than ``within``, all together."""
        growth = f"{self.subject.quantity.grows('less than', within)}, in every layer"
        alpha = self.subject.alpha(**level)
        return self._decided(growth, DegradationByLayer(threshold=within, alpha=alpha), within)

    def _decided(
        self, what: str, statistic: Statistic[LayersDecision], threshold: float | None
    ) -> Verdict:
        statement = f"ablating {where(self.ablation)} in one layer at a time {what}"
        measurement = self.subject.measurement
        end = self.decided(
            statement, statistic, lambda _: layer_evidence(measurement, self.ablation)
        )
        layers = tuple(
            LayerFigure(layer=number, ratio=float(layer.measured), interval=layer.interval)
            for number, layer in enumerate(end.decision.layers)
        )
        return self.verdict(
            end,
            statement,
            passes=None if threshold is None else "below",
            threshold=threshold,
            details={"layers": layers},
            reason=described([layer.ratio for layer in layers]),
        )


def described(ratios: Sequence[float]) -> str:
    """A line on a sweep: ``layer profile: largest x1.21 in layer 11, x1.13 in layer 10 …``."""
    order = sorted(range(len(ratios)), key=lambda layer: (-ratios[layer], layer))
    shown = [f"x{ratios[layer]:.4g} in layer {layer}" for layer in order[:3]]
    rest = len(order) > 3
    least = f"; smallest x{ratios[order[-1]]:.4g} in layer {order[-1]}" if rest else ""
    return f"layer profile: largest {', '.join(shown)}{least}"


class LayerProfileLimits(OptInLimits):
    """Ablating the outlier dimensions in one layer at a time."""

    max_ratio: RatioOrRecord = Field(
        default="record", description="each layer must stay below this factor; or is only recorded"
    )


class LayerProfile(Check[LayerProfileLimits]):
    """Ablating them in one layer at a time stays below ``max_ratio``, or is only recorded."""

    name, title = "layer_profile", "layer profile"
    limits = LayerProfileLimits

    def cases(self, context: PlanContext) -> Iterable[PlannedCheck]:
        if context.terms.site == "embedding-norm":
            why = "the site embedding-norm lies before the layers"
            yield self.not_applicable(why, "no-layers")
        else:
            compared = self.limits_in(context.terms).max_ratio != "record"
            suffix = joint_suffix(context.dims)
            yield self.case(context.dims, suffix, comparisons=int(compared))

    def decide(self, planned: PlannedCheck, subject: Subject, *, alpha: float) -> Verdict:
        within = self.limits_in(subject.terms).max_ratio
        sweep = layer_sweep(subject, planned.dims)
        if within == "record":
            return sweep.recorded(alpha=alpha)
        return sweep.stays_below(within, alpha=alpha)


def layer_sweep(
    subject: Subject, dims: tuple[int, ...], *, site: str | None = None, mode: str | None = None
) -> LayerSweep:
    """The model without these dimensions in one layer at a time, at a site that its layers have."""
    layers = range(subject.model_profile.layers)
    ablation = subject.ablation(dims, site=site, mode=mode, layers=layers)
    return LayerSweep(subject, replace(ablation, layers=None))
