"""What deployment in eight bits would do, and the outlier dimensions' part in that."""

import math
from collections.abc import Iterable
from typing import Unpack

from pydantic import Field

from robustness.ablation.interventions import Quantized
from robustness.checks.ablation import DegradedModel
from robustness.checks.check import Check, Cost, PlanContext
from robustness.checks.limits import OptInLimits, Ratio
from robustness.checks.planned import PlannedCheck
from robustness.checks.subject import Level, Subject
from robustness.measurement.evidence import intervention_evidence
from robustness.outliers.outlier_dimensions import named
from robustness.statistics.decisions import exp
from robustness.statistics.figures import Int8Figures
from robustness.statistics.verdict import Verdict


class QuantizedModel(DegradedModel):
    """A model with 8-bit weights and activations; :meth:`robustness.vetting.Vetting.quantized`."""

    questions = ".is_harmless(within=…)"

    def __repr__(self) -> str:
        return f"<{self.subject.checkpoint.label} in int8>"

    def is_harmless(self, *, within: float, **level: Unpack[Level]) -> Verdict:
        """Whether it multiplies perplexity by less than ``within``.

        The details say what remains of the loss, on the same text blocks, where the outlier
        dimensions stay in float.
        """
        alpha = self.subject.alpha(**level)
        growth = self.subject.quantity.grows("less than", within)
        statement = f"int8 weights and activations {growth}"
        end = self.degradation(Quantized(), statement, within, alpha)
        figures = self._without_outliers(end.evidence.seen)
        return self.verdict(
            end,
            statement,
            passes="below",
            threshold=within,
            alpha=alpha,
            details={"int8": figures},
            reason="" if figures is None else described(figures),
        )

    def _without_outliers(self, text_blocks: int) -> Int8Figures | None:
        """The same with the outlier dimensions in float, on the same text blocks."""
        spared = self.subject.outliers().dims
        if not spared:
            return None
        both = [Quantized(), Quantized(spared=spared)]
        *_, evidence = intervention_evidence(
            self.subject.measurement, both, most_blocks=text_blocks
        )
        tokens = int(evidence["tokens"].sum())
        all_nats, spared_nats = (float(delta.sum()) for delta in evidence.deltas)
        return Int8Figures(
            ratio=exp(all_nats / tokens),
            ratio_without_outliers=exp(spared_nats / tokens),
            spared_dims=spared,
            share_of_outliers=share(all_nats, spared_nats),
        )


def share(all_nats: float, spared_nats: float) -> float | None:
    """The part of the nats lost to int8 that is not lost where some dimensions stay in float.

    ``None`` where nothing was lost that could have parts.
    """
    if not all_nats > 0 or not math.isfinite(all_nats):
        return None
    return 1 - spared_nats / all_nats


def described(figures: Int8Figures) -> str:
    """What the outlier dimensions have to do with it, in one phrase."""
    text = (
        f"int8: x{figures.ratio:.4g}; with {named(figures.spared_dims)} left in float: "
        f"x{figures.ratio_without_outliers:.4g}"
    )
    part = figures.share_of_outliers
    return text if part is None else f"{text}, {part:.0%} of the loss gone"


class QuantizationIsHarmlessLimits(OptInLimits):
    """Simulated int8 weights and activations at the dense layers."""

    max_ratio: Ratio = Field(default=1.05, description="must stay below this factor")


class QuantizationIsHarmless(Check[QuantizationIsHarmlessLimits]):
    """Simulated int8 weights and activations stay below ``max_ratio``."""

    name, title = "quantization_is_harmless", "quantization is harmless"
    limits = QuantizationIsHarmlessLimits
    needs_outliers = False

    def cases(self, context: PlanContext) -> Iterable[PlannedCheck]:
        yield self.case(context.dims, "int8")

    def cost(self, planned: PlannedCheck) -> Cost:
        """A pass in int8, and one that spares the outlier dimensions."""
        return Cost(passes=1 + bool(planned.dims))

    def decide(self, planned: PlannedCheck, subject: Subject, *, alpha: float) -> Verdict:
        within = self.limits_in(subject.terms).max_ratio
        return QuantizedModel(subject).is_harmless(within=within, alpha=alpha)
