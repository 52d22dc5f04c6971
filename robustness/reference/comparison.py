"""Comparing a checkpoint with a profile, paired by text block: pure functions of stored numbers."""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from robustness.outliers.outlier_dimensions import named
from robustness.reference.baseline import CheckpointBaseline, Flagged
from robustness.statistics.decisions import Decision, Side, decide_ratio
from robustness.statistics.figures import (
    BaselineFigures,
    Details,
    HistoryEntry,
    IntactFigures,
    OutlierChanges,
)
from robustness.statistics.sequential import blind_share
from robustness.statistics.verdict import Outcome, Verdict

NAMES = {
    "corpus": "corpus",
    "scoring": "scoring",
    "dtype": "dtype",
    "block_size": "block size",
    "seed": "seed",
    "rule": "rule",
    "hidden_size": "hidden size",
    "method": "version of the protocol",
    "text_blocks": "tokens (another tokenizer)",
}
"""What must be equal, in the order in which a difference is named; anything else comes last."""

_OTHER: Mapping[Side, Side] = {"above": "below", "below": "above"}

_OUTLIERS_KEPT = {
    "same": "the outlier dimensions are those of the baseline",
    "subset": "no outlier dimension is new since the baseline",
    "superset": "no outlier dimension of the baseline is gone",
    "any": "outlier dimensions are compared with the baseline's",
}


@dataclass(frozen=True, kw_only=True)
class Tolerances:
    """How far two checkpoints may lie apart.

    Attributes:
        dims: which outlier dimensions the newer may have; see :func:`outlier_verdict`.
        max_perplexity_ratio: how much larger perplexity may be than the older one's.
        max_degradation_ratio: how far degradations may lie apart, up or down.
    """

    dims: str
    max_perplexity_ratio: float
    max_degradation_ratio: float


@dataclass(frozen=True, kw_only=True)
class PairedDecision(Decision):
    """What is known of a ratio between two checkpoints after some text blocks.

    Attributes:
        threshold: the end of the tolerance on whose side the ratio lies.
        passes: on which side of the threshold the tolerance is.
    """

    threshold: float
    passes: Side


def difference(
    then: CheckpointBaseline, now_conditions: Mapping[str, Any], now_corpus: str
) -> str | None:
    """The first condition under which two checkpoints were measured differently, in words."""
    ours, theirs = dict(now_conditions), then.conditions
    rest = sorted({*ours, *theirs} - {*NAMES})
    missing = object()
    for key in (*NAMES, *rest):
        if ours.get(key, missing) == theirs.get(key, missing):
            continue
        name = NAMES.get(key, key.replace("_", " "))
        if key == "corpus":
            other = ", of the same name" if now_corpus == then.corpus else ""
            return f"another {name} ({_short(then.corpus)}, here {_short(now_corpus)}{other})"
        if key == "text_blocks":
            return f"other {name}"
        return f"another {name} ({_short(theirs.get(key))}, here {_short(ours.get(key))})"
    return None


def outlier_verdict(
    then: Sequence[Flagged], now: Sequence[Flagged], *, allowed: str = "same"
) -> Verdict:
    """Which outlier dimensions appeared, vanished, or are flagged in other layers.

    Allowed is ``same``, a ``subset`` of the baseline's, a ``superset`` or ``any``.
    """
    before = {flagged.dim: flagged.layers for flagged in then}
    after = {flagged.dim: flagged.layers for flagged in now}
    appeared, vanished = sorted(after.keys() - before), sorted(before.keys() - after)
    moved = sorted(dim for dim in before.keys() & after if before[dim] != after[dim])
    failed = (bool(appeared) and allowed in ("same", "subset")) or (
        bool(vanished) and allowed in ("same", "superset")
    )
    changes = [
        f"{named(dims)} {what}"
        for dims, what in (
            (appeared, "appeared"),
            (vanished, "vanished"),
            (moved, "stands out in other layers" if len(moved) == 1 else "stand out in others"),
        )
        if dims
    ]
    return Verdict(
        outcome="fail" if failed else "pass",
        statement=_OUTLIERS_KEPT[allowed],
        reason="; ".join(changes) or f"still {named(sorted(after)) if after else 'none'}",
        details=Details(
            outliers=OutlierChanges(
                appeared=tuple(appeared), vanished=tuple(vanished), other_layers=tuple(moved)
            )
        ),
    )


def decide_paired(
    change_nats: ArrayLike,
    tokens: ArrayLike,
    *,
    within: float,
    both_ways: bool,
    alpha: float,
    exhausted: bool,
) -> PairedDecision:
    """Whether exp(Σchange / Σtokens) lies below ``within``, and above its inverse if both ways.

    One confidence sequence holds on both sides at once, so this is one comparison.

    Args:
        change_nats: what a text block's NLL, or ΔNLL, differs from the baseline's; shape (n,).
        tokens: scored tokens, shape (n,).
        within: tolerance, a ratio above 1.
        both_ways: whether its inverse is an end of the tolerance, too.
        alpha: error probability over all looks.
        exhausted: whether these are all text blocks that the baseline holds.
    """
    change = np.asarray(change_nats, dtype=np.float64)
    ends: list[tuple[float, Side]] = [(within, "below")]
    if both_ways:
        ends.append((1 / within, "above"))
    if np.isneginf(change).any():  # the baseline's degradation is infinite, this one is not
        return _infinitely_less(change, tokens, *ends[-1])
    decisions = [
        decide_ratio(change, tokens, threshold=end, alpha=alpha, exhausted=exhausted)
        for end, _ in ends
    ]
    nearest = int(both_ways and decisions[0].measured < 1)
    threshold, passes = ends[nearest]
    side: Side | None = None
    inside = {
        each.side and each.side == good for each, (_, good) in zip(decisions, ends, strict=True)
    }
    if False in inside:
        side = _OTHER[passes]
    elif inside == {True}:
        side = passes
    fields = {**vars(decisions[nearest]), "side": side}
    return PairedDecision(**fields, threshold=threshold, passes=passes)


def change_of_delta(
    now_delta: NDArray[np.float64], then_delta: NDArray[np.float64]
) -> NDArray[np.float64]:
    """ΔNLL now minus then; two infinite ones do not differ."""
    both = np.isinf(now_delta) & np.isinf(then_delta)
    return np.subtract(now_delta, then_delta, out=np.zeros_like(now_delta), where=~both)


def perplexity_verdict(
    decision: PairedDecision, *, figures: BaselineFigures, **more: Any
) -> Verdict:
    """That perplexity has not grown beyond the tolerance; see :func:`paired_verdict`."""
    statement = f"perplexity is less than {decision.threshold:g} times the baseline's"
    reason = f"{figures.now:.4g} against {figures.then:.4g} on the same text blocks"
    return paired_verdict(decision, statement, reason, figures, **more)


def degradation_verdict(
    decision: PairedDecision,
    dims: Iterable[int],
    *,
    within: float,
    figures: BaselineFigures,
    **more: Any,
) -> Verdict:
    """That ablating ``dims`` multiplies perplexity by about as much as in the baseline.

    See :func:`paired_verdict`.
    """
    statement = (
        f"ablating {named(dims)} multiplies perplexity by as much as in the baseline, within a "
        f"factor of {within:g}"
    )
    reason = f"x{figures.now:.4g} against x{figures.then:.4g} on the same text blocks"
    return paired_verdict(decision, statement, reason, figures, **more)


def paired_verdict(
    decision: PairedDecision,
    statement: str,
    reason: str,
    figures: BaselineFigures,
    *,
    history: Sequence[HistoryEntry] = (),
    intact: IntactFigures | None = None,
    alpha: float | None = None,
) -> Verdict:
    """The verdict that a paired decision amounts to; ``alpha`` if that was sequential."""
    outcome: Outcome = "inconclusive"
    if decision.side is not None:
        outcome = "pass" if decision.side == decision.passes else "fail"
    blind = None
    if outcome == "pass" and not decision.exact and alpha is not None:
        blind = blind_share(decision.seen, alpha)
    return Verdict(
        outcome=outcome,
        statement=statement,
        measured=float(decision.measured),
        interval=decision.interval,
        threshold=float(decision.threshold),
        passes=decision.passes,
        seen=decision.seen,
        tokens=decision.tokens,
        exact=decision.exact,
        details=Details(baseline=figures, intact=intact, blind_share=blind),
        reason=reason,
        history=tuple(history),
    )


def compare_baselines(
    then: CheckpointBaseline,
    now: CheckpointBaseline,
    *,
    tolerances: Tolerances,
    alpha: float,
) -> dict[str, Verdict]:
    """Two profiles, on the text blocks that both hold; verdicts by what they are about.

    The profiles must have been measured under the same conditions (:func:`difference`).
    """

    def paired(
        before: ArrayLike, after: ArrayLike, **tolerance: Any
    ) -> tuple[PairedDecision, BaselineFigures]:
        held = min(len(np.asarray(before)), len(np.asarray(after)))
        before, after = np.asarray(before)[:held], np.asarray(after)[:held]
        tokens, change = then.tokens[:held], change_of_delta(after, before)
        decision = decide_paired(change, tokens, alpha=alpha, exhausted=True, **tolerance)
        return decision, figures_of(before, after, tokens, then.held)

    decision, figures = paired(
        then.nll_nats, now.nll_nats, within=tolerances.max_perplexity_ratio, both_ways=False
    )
    verdicts = {
        "outliers": outlier_verdict(then.outliers, now.outliers, allowed=tolerances.dims),
        "perplexity": perplexity_verdict(decision, figures=figures),
    }
    names, within = now.names_by_ablation, tolerances.max_degradation_ratio
    for key, name in then.names_by_ablation.items():
        if key in names:
            deltas = then.delta_nll(name), now.delta_nll(names[key])
            decision, figures = paired(*deltas, within=within, both_ways=True)
            verdicts[name] = degradation_verdict(
                decision, then.ablated(name).dims, within=within, figures=figures
            )
    return verdicts


def figures_of(then: ArrayLike, now: ArrayLike, tokens: ArrayLike, held: int) -> BaselineFigures:
    """What nats per text block then and now amount to, of a baseline that holds so many."""
    return BaselineFigures(text_blocks=held, then=ratio(then, tokens), now=ratio(now, tokens))


def ratio(nats: ArrayLike, tokens: ArrayLike) -> float:
    """exp(Σnats / Σtokens), infinite where it overflows."""
    mean = math.fsum(np.asarray(nats, dtype=np.float64)) / int(np.sum(tokens))
    return math.exp(mean) if mean < 700 else math.inf


def _infinitely_less(
    change: NDArray[np.float64], tokens: ArrayLike, threshold: float, passes: Side
) -> PairedDecision:
    mixed = bool(np.isposinf(change).any())  # infinite here, too, only elsewhere
    kept = mixed or passes == "below"
    return PairedDecision(
        side=passes if kept else _OTHER[passes],
        measured=1.0 if mixed else 0.0,
        interval=None,
        exact=True,
        seen=len(change),
        tokens=int(np.asarray(tokens).sum()),
        threshold=threshold,
        passes=passes,
    )


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
