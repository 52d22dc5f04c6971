"""A checkpoint beside its baseline: what is measured now, against what a profile holds."""

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from robustness.ablation.ablation import Ablation
from robustness.ablation.interventions import FixedAblation
from robustness.checks.check_settings import MatchesBaseline
from robustness.measurement.evidence import fixed_evidence, intact_evidence
from robustness.outliers.outliers import Detection
from robustness.reference.baseline import CheckpointBaseline, Flagged
from robustness.reference.comparison import (
    change_of_delta,
    degradation_verdict,
    outlier_verdict,
    paired_look,
    perplexity_verdict,
    ratio,
)
from robustness.statistics.history import Step, course, step
from robustness.statistics.verdict import Verdict, blind_share

if TYPE_CHECKING:
    from robustness.vetting import Vetting

OUTLIERS, PERPLEXITY = "outliers", "perplexity"
"""Parts of a comparison, beside the profile's ablations."""


class AgainstBaseline:
    """See :attr:`robustness.vetting.Vetting.baseline`; ask it for verdicts."""

    def __init__(self, vetting: "Vetting", profile: CheckpointBaseline) -> None:
        self._vetting = vetting
        self.profile = profile

    def decide(self, part: str, limits: MatchesBaseline, *, alpha: float) -> Verdict:
        """The verdict on one part: ``outliers``, ``perplexity``, or an ablation of the profile."""
        if part == OUTLIERS:
            return self.keeps_outliers(limits.dims)
        if part == PERPLEXITY:
            return self.keeps_perplexity(within=limits.max_perplexity_ratio, alpha=alpha)
        return self.keeps_degradation(part, within=limits.max_degradation_ratio, alpha=alpha)

    def keeps_outliers(self, allowed: str = "same") -> Verdict:
        """Whether the rule finds the same dimensions (or a ``subset``, ``superset``, ``any``)."""
        found = flagged(self._vetting.model_profile.detection)
        return outlier_verdict(self.profile.outliers, found, allowed=allowed)

    def keeps_perplexity(
        self, *, within: float, confidence: float | None = None, alpha: float | None = None
    ) -> Verdict:
        """Whether perplexity is less than ``within`` times the profile's, on its text blocks."""
        vetting, profile = self._vetting, self.profile
        level = vetting.alpha(confidence, alpha)
        steps = []
        for evidence in intact_evidence(vetting.measurement):
            n = min(len(evidence.tokens), profile.held)
            nll, tokens = evidence.nll_nats[:n], evidence.tokens[:n]
            then = np.array(profile.nll_nats[:n])
            paired = paired_look(
                nll - then,
                tokens,
                within=within,
                both_ways=False,
                alpha=level,
                exhausted=n == profile.held,
            )
            steps.append(step(paired.look, text_blocks=n))
            found = f"x{paired.look.ratio:.4g}"
            vetting.report_progress(
                "perplexity", n, found, interval=paired.look.interval, most=profile.held
            )
            if self._finished(n, profile.held, decided=paired.within is not None):
                break
        verdict = perplexity_verdict(
            paired, then=ratio(then, tokens), now=ratio(nll, tokens), alpha=level
        )
        return self._noted(verdict, level, profile.held, steps)

    def keeps_degradation(
        self,
        name: str,
        *,
        within: float,
        confidence: float | None = None,
        alpha: float | None = None,
    ) -> Verdict:
        """Whether an ablation of the profile does as much harm as then, within a factor.

        Args:
            name: of the ablation in the profile: ``dim308``.
            within: the factor, above 1; less harm counts as much as more.
            confidence: of the verdict.
            alpha: its error probability.
        """
        vetting, profile = self._vetting, self.profile
        level = vetting.alpha(confidence, alpha)
        ablation = Ablation.from_dict(profile.ablated(name).ablation)
        before = profile.delta_nll(name)
        steps = []
        for evidence in fixed_evidence(vetting.measurement, FixedAblation(ablation=ablation)):
            n = min(len(evidence.delta_nll), len(before))
            delta, then, tokens = evidence.delta_nll[:n], before[:n], evidence.intact.tokens[:n]
            paired = paired_look(
                change_of_delta(delta, then),
                tokens,
                within=within,
                both_ways=True,
                alpha=level,
                exhausted=n == len(before),
            )
            steps.append(step(paired.look, text_blocks=n))
            found = f"x{paired.look.ratio:.4g}"
            vetting.report_progress(
                f"ablation {name}", n, found, interval=paired.look.interval, most=len(before)
            )
            if self._finished(n, len(before), decided=paired.within is not None):
                break
        verdict = degradation_verdict(
            paired,
            ablation.dims,
            within=within,
            then=ratio(then, tokens),
            now=ratio(delta, tokens),
            alpha=level,
        )
        return self._noted(verdict, level, len(before), steps)

    def _finished(self, seen: int, held: int, *, decided: bool) -> bool:
        return seen == held or (decided and not self._vetting.settings.exhaustive)

    def _noted(self, verdict: Verdict, alpha: float, held: int, steps: Sequence[Step]) -> Verdict:
        """The verdict with what it rests on."""
        details: dict[str, Any] = {**verdict.details, "baseline_text_blocks": held}
        if verdict and not verdict.exact:
            details["blind_share"] = blind_share(verdict.text_blocks, alpha)
        return replace(verdict, details=details, course=course(steps))


def flagged(detection: Detection) -> tuple[Flagged, ...]:
    """The outlier dimensions as a profile holds them."""
    return tuple(
        Flagged(dim=outlier.dim, layers=tuple(outlier.layers)) for outlier in detection.outliers
    )
