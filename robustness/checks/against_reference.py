"""A candidate beside its reference on the same text blocks, to be asked for verdicts."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Unpack

import numpy as np

from robustness.checks.statistic import ChangedShare, Degradation, KeptEffect, Recorded
from robustness.checks.subject import Level, Model, Subject, where
from robustness.errors import BaselineError
from robustness.measurement.compared import ComparedMeasurement
from robustness.measurement.evidence import comparison_evidence, effect_evidence
from robustness.reference.comparison import outlier_verdict
from robustness.reference.location import located
from robustness.reference.reference import flagged
from robustness.scoring.scoring_plan import CHUNK_BLOCKS
from robustness.statistics.decisions import Decision, decide_share
from robustness.statistics.figures import DivergenceFigures, ReferenceFigures
from robustness.statistics.loop import Compared, Decided, Evidence, Statistic
from robustness.statistics.sequential import summarise
from robustness.statistics.verdict import Measure, Verdict

RECORDED_BLOCKS = 64
"""Text blocks of what is compared with nothing, unless the whole corpus is measured."""


@dataclass(kw_only=True)
class MeanDivergence(Compared[Decision]):
    """Mean KL divergence per scored position, in nats.

    What is lost with the rest of the reference's distributions widens the interval as reduced
    precision does: by its absolute mean and 3 standard errors.
    """

    def decide(self, evidence: Evidence) -> Decision:
        return decide_share(
            evidence["kl"],
            evidence["tokens"],
            threshold=self.threshold,
            alpha=self.alpha,
            exhausted=evidence.whole,
            most=np.inf,
            slack=lost_nats(evidence),
        )

    def shown(
        self, evidence: Evidence, decision: Decision | None
    ) -> tuple[str, tuple[float, float] | None]:
        return ("", None) if decision is None else (f"{decision.measured:.4g}", decision.interval)


def lost_nats(evidence: Evidence) -> float:
    """By how much divergences may be too small, in nats per text block."""
    lost = evidence["lost"]
    if not lost.any() or len(lost) < 2:
        return float(np.abs(lost).max(initial=0.0))
    error = summarise(lost)
    return abs(float(error.mean)) + 3 * float(error.std) / float(np.sqrt(len(lost)))


class AgainstReference(Model):
    """See :attr:`robustness.vetting.Vetting.reference`; ask it for verdicts.

    Without a threshold they record what is measured, and pass in any case.
    """

    questions = ".keeps_perplexity(within=…), .keeps_predictions(…) or .keeps_distributions(…)"

    def __init__(self, subject: Subject) -> None:
        super().__init__(subject)
        self.reference = subject.reference_numbers

    def keeps_perplexity(self, *, within: float | None = 1.01, **level: Unpack[Level]) -> Verdict:
        """Whether perplexity is less than ``within`` times the reference's."""
        quantity = self.subject.quantity
        statement = f"{quantity.name} is less than {within} times the reference's"
        statistic = Degradation(threshold=within or 1.0, alpha=self.subject.alpha(**level))
        return self._compared(statement, statistic, within, "ratio")

    def keeps_predictions(self, *, share: float | None = 0.05, **level: Unpack[Level]) -> Verdict:
        """Whether at less than a share of the scored positions another token is most probable."""
        statement = (
            f"less than {share} of the scored positions have another most probable token than "
            "the reference's"
        )
        statistic = ChangedShare(threshold=share or 0.0, alpha=self.subject.alpha(**level))
        return self._compared(statement, statistic, share, "share")

    def keeps_distributions(self, *, nats: float | None = 0.005, **level: Unpack[Level]) -> Verdict:
        """Whether the mean KL divergence (reference ‖ candidate) is less than so many nats."""
        statement = (
            "the mean KL divergence from the reference's distributions is less than "
            f"{nats} nats per scored position"
        )
        statistic = MeanDivergence(threshold=nats or 0.0, alpha=self.subject.alpha(**level))
        return self._compared(statement, statistic, nats, "divergence")

    def keeps_outliers(self, allowed: str = "same") -> Verdict:
        """Whether the rule finds the same dimensions (or a ``subset``, ``superset``, ``any``)."""
        now = flagged(self.subject.outliers().detection)
        return outlier_verdict(self.reference.outliers, now, allowed=allowed)

    def keeps_effect(
        self, dims: tuple[int, ...], *, least: float, most: float, **level: Unpack[Level]
    ) -> Verdict:
        """Whether ablating dimensions adds as many nats as in the reference, within two factors.

        It is not applicable where the text could not tell these from each other.
        """
        ablation = self.subject.ablation(dims)
        statement = (
            f"ablating {where(ablation)} adds {least:g} to {most:g} times as many nats as in "
            "the reference"
        )
        if self.reference.is_candidate:
            return same_model(statement)
        held = self.reference.held(ablation)
        end = self.decided(
            statement,
            KeptEffect(least=least, most_times=most, alpha=self.subject.alpha(**level)),
            lambda _: effect_evidence(
                self.subject.measurement,
                ablation,
                lambda index: self.reference.effect_nats(index, ablation),
                most_blocks=held,
            ),
        )
        decision, tokens = end.decision, end.evidence["tokens"].sum()
        now, then = (float(end.evidence[name].sum() / tokens) for name in ("delta", "then"))
        fields = {"outcome": "not applicable"} if decision.unresolved else {}
        verdict = self.verdict(
            end,
            statement,
            passes=decision.passes,
            threshold=decision.threshold,
            measure="factor",
            details={
                "reference": ReferenceFigures(text_blocks=end.evidence.total, then=then, now=now)
            },
            reason=decision.unresolved
            or f"{now:+.4g} nats per token, {then:+.4g} in the reference",
        )
        return verdict.model_copy(update=fields)

    def _compared(
        self,
        statement: str,
        statistic: Compared[Decision],
        threshold: float | None,
        measure: Measure,
    ) -> Verdict:
        if threshold is None:
            statement = f"{_RECORDED[measure]} beside the reference's is recorded"
        if self.reference.is_candidate:
            return same_model(statement)
        asked: Statistic[Decision] = statistic
        if threshold is None:
            exhaustive = self.subject.terms.exhaustive
            asked = Recorded(statistic=statistic, enough=RECORDED_BLOCKS, exhaustive=exhaustive)
        end = self.decided(statement, asked, lambda _: self._evidence(measure))
        verdict = self.verdict(
            end,
            statement,
            passes=None if threshold is None else "below",
            threshold=threshold,
            alpha=statistic.alpha,
            measure=measure,
            details=self._details(end, measure),
        )
        return self._located(verdict) if verdict.outcome == "fail" else verdict

    def _located(self, verdict: Verdict) -> Verdict:
        """With where the candidate differs from the reference, as far as that can be found out."""
        if self.reference.checkpoint is None:
            return verdict
        location = located(self.subject, self.reference.checkpoint)
        details = verdict.details.model_copy(update={"location": location})
        reason = location.sentence or verdict.reason
        return verdict.model_copy(update={"details": details, "reason": reason})

    def _evidence(self, measure: Measure) -> Iterator[Evidence]:
        measurement, reference = self.subject.measurement, self.reference
        if measure != "ratio" and not isinstance(measurement, ComparedMeasurement):
            raise BaselineError(
                f"the saved profile of {reference.label} holds no predictions: name the checkpoint "
                "itself as the reference"
            )
        return comparison_evidence(measurement, reference.nll_nats, most_blocks=reference.held())

    def _details(self, end: Decided[Decision], measure: Measure) -> dict[str, Any]:
        evidence = end.evidence
        if measure == "ratio":
            tokens = evidence["tokens"].sum()
            now = evidence["nll"].sum()
            then = now - evidence["delta"].sum()
            figure = self.subject.quantity.figure
            return {
                "reference": ReferenceFigures(
                    text_blocks=evidence.total,
                    then=figure(float(then / tokens)),
                    now=figure(float(now / tokens)),
                )
            }
        if measure != "divergence":
            return {}
        measurement = self.subject.measurement
        assert isinstance(measurement, ComparedMeasurement)
        chunks = range(-(-evidence.seen // CHUNK_BLOCKS))
        positions = [measurement.compared(chunk).by_position for chunk in chunks]
        mean_tokens = float(evidence["tokens"].mean())
        return {
            "divergence": DivergenceFigures(
                p99_nats=float(np.quantile(np.concatenate(positions), 0.99, method="higher")),
                lost_nats=lost_nats(evidence) / mean_tokens,
            )
        }


_RECORDED = {
    "ratio": "how large perplexity is",
    "share": "how many most probable tokens differ",
    "divergence": "how far distributions lie",
}


def same_model(statement: str) -> Verdict:
    """The verdict on a candidate that is its own reference."""
    return Verdict(
        outcome="pass",
        statement=statement,
        reason="the candidate is the reference: the same weights, settings and tokenizer",
    )
