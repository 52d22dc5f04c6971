"""From the end of the stopping loop to a verdict, the same way for every check."""

import numpy as np

from robustness.checks.subject import Subject
from robustness.corpus.text_size import normalised_perplexity
from robustness.measurement.evidence import Comparison, ControlEvidence, IntactEvidence
from robustness.statistics.decisions import Decision, Side
from robustness.statistics.figures import (
    Details,
    IntactFigures,
    PrecisionFigures,
    TextFigures,
)
from robustness.statistics.loop import AnyDecision, Decided, Evidence
from robustness.statistics.sequential import blind_share
from robustness.statistics.verdict import Measure, Outcome, Unit, Verdict


def verdict(
    end: Decided[Evidence, AnyDecision],
    statement: str,
    *,
    threshold: float | None,
    passes: Side | None,
    details: Details,
    tokens: int = 0,
    measure: Measure = "ratio",
    unit: Unit = "text blocks",
    outcome: Outcome | None = None,
    reason: str = "",
) -> Verdict:
    """The verdict that the last decision amounts to.

    Args:
        end: of the stopping loop.
        statement: the sentence that is true if it passes.
        threshold: what the number was compared with.
        passes: on which side of it.
        details: further numbers.
        tokens: scored in what was seen.
        measure: what the number is.
        unit: of what was seen.
        outcome: where it does not follow from the decision's side.
        reason: why it came to this, where the numbers do not say it.
    """
    decision = end.decision
    if outcome is None:
        outcome = "inconclusive"
        if decision.side is not None:
            outcome = "pass" if decision.side == passes else "fail"
    return Verdict(
        outcome=outcome,
        statement=statement,
        measured=float(decision.measured),
        measure=measure,
        interval=end.history[-1].interval,
        threshold=None if threshold is None else float(threshold),
        passes=passes,
        seen=end.evidence.seen,
        unit=unit,
        tokens=tokens,
        exact=decision.exact,
        details=details,
        reason=reason,
        history=end.history,
    )


def blindness(end: Decided[Evidence, Decision], alpha: float) -> float | None:
    """The share of what was seen that may suffer unseen, where a number was found to lie below."""
    if end.decision.side != "below" or end.decision.exact:
        return None
    return blind_share(end.decision.seen, alpha)


def intact_figures(subject: Subject, evidence: IntactEvidence) -> IntactFigures:
    """What is said of the intact model: a perplexity only where the measured quantity is one."""
    loss = evidence.mean_nll_nats
    return IntactFigures(
        perplexity=float(np.exp(loss)) if subject.quantity.is_perplexity else None,
        nats_per_token=loss,
        chance_nats_per_token=subject.measurement.scoring_plan.chance_nats,
        text=_text_figures(subject, evidence),
        text_blocks=evidence.seen,
        tokens=scored(evidence),
    )


def _text_figures(subject: Subject, evidence: IntactEvidence) -> TextFigures | None:
    """Perplexity per word and byte of the text blocks seen, where it is one and both are known."""
    sizes = subject.measurement.scoring_plan.sizes if subject.quantity.is_perplexity else None
    if sizes is None:
        return None
    seen = slice(0, evidence.seen)
    figures = normalised_perplexity(
        evidence.mean_nll_nats,
        tokens=int(sizes.tokens[seen].sum()),
        words=int(sizes.words[seen].sum()),
        utf8_bytes=int(sizes.utf8_bytes[seen].sum()),
    )
    return TextFigures.model_validate(figures)


def precision_figures(comparison: Comparison | None) -> PrecisionFigures | None:
    """Which precision was used behind the first text blocks, and what the reduced one costs."""
    if comparison is None:
        return None
    costs = tuple(precision.cost() for precision in comparison.precisions)
    return PrecisionFigures(dtype=comparison.dtype, costs=costs)


def scored(evidence: IntactEvidence | ControlEvidence) -> int:
    """Scored tokens of all that was seen."""
    return int(evidence.tokens.sum())
