"""What deployment in eight bits would do, and the outlier dimensions' part in that."""

import math
from collections.abc import Iterable

import numpy as np
from pydantic import Field

from robustness.ablation.interventions import Quantized
from robustness.checks.ablation import decide_degradation, degradation_details
from robustness.checks.check import Check, Cost, PlanContext
from robustness.checks.limits import Limits, Ratio
from robustness.checks.model import Model
from robustness.checks.planned import PlannedCheck
from robustness.checks.subject import Subject
from robustness.checks.verdicts import scored, verdict
from robustness.measurement.evidence import intervention_evidence
from robustness.outliers.outlier_dimensions import named
from robustness.statistics.figures import Int8Figures
from robustness.statistics.verdict import Verdict


class QuantizedModel(Model):
    """A model with 8-bit weights and activations.

    See :meth:`robustness.vetting.Vetting.quantized`.
    """

    questions = ".is_harmless(within=…)"

    def __repr__(self) -> str:
        return f"<{self.subject.checkpoint.label} in int8>"

    def is_harmless(
        self, *, within: float, confidence: float | None = None, alpha: float | None = None
    ) -> Verdict:
        """Whether it multiplies perplexity by less than ``within``.

        The details say what remains of the loss, on the same text blocks, where the outlier
        dimensions stay in float.
        """
        subject, level = self.subject, self.subject.alpha(confidence, alpha)
        growth = subject.quantity.grows("less than", within)
        statement = f"int8 weights and activations {growth}"
        end = decide_degradation(subject, Quantized(), statement, threshold=within, alpha=level)
        figures = self._without_outliers(end.evidence.seen)
        details = degradation_details(subject, end, level)
        return verdict(
            end,
            statement,
            threshold=within,
            passes="below",
            tokens=scored(end.evidence.intact),
            details=details.model_copy(update={"int8": figures}),
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
        tokens = scored(evidence.intact)
        all_nats, spared_nats = (float(delta.sum()) for delta in evidence.deltas_nll)
        return Int8Figures(
            ratio=_exp(all_nats / tokens),
            ratio_without_outliers=_exp(spared_nats / tokens),
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


def _exp(value: float) -> float:
    return float(np.exp(value)) if value < 700 else math.inf


class QuantizationIsHarmlessLimits(Limits):
    """Simulated int8 weights and activations at the dense layers."""

    enabled: bool = Field(default=False, description="whether the check runs")
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
