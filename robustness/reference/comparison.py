"""Comparing a checkpoint with a profile, paired by text block: pure functions of stored numbers."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from robustness.outliers.outlier_dimensions import named
from robustness.reference.baseline import CheckpointBaseline, Flagged
from robustness.statistics.decisions import Decision, Side, decide_ratio
from robustness.statistics.figures import BaselineFigures, Details, IntactFigures, OutlierChanges
from robustness.statistics.sequential import blind_share
from robustness.statistics.verdict import Verdict, verdict_of

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
        dims: which outlier dimensions the newer may have: the ``same``, a ``subset`` of the
            baseline's, a ``superset`` or ``any``.
        max_perplexity_ratio: how much larger perplexity may be than the older one's.
        max_degradation_ratio: how far degradations may lie apart, up or down.
    """

    dims: str
    max_perplexity_ratio: float
    max_degradation_ratio: float


@dataclass(frozen=True, kw_only=True)
class PairedDecision(Decision):
    """What is known of a ratio, and the end of the tolerance next to it, with its good side."""

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
    """Which outlier dimensions appeared, vanished, or are flagged in other layers."""
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

    One confidence sequence holds on both sides at once, so this is one comparison. A change is what
    a text block's NLL, or ΔNLL, differs from the baseline's, shape (n,); ``exhausted`` are all that
    the baseline holds.
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


@dataclass(frozen=True, kw_only=True)
class Pairing:
    """Perplexity, or what an ablation does to it, beside a baseline's on the same text blocks.

    Attributes:
        then: the baseline's NLLs, or ΔNLLs, in nats, shape (n,).
        held: text blocks that the baseline holds.
        within: tolerance, a ratio above 1.
        dims: that are ablated: less harm counts as much as more. Without, only growth counts.
    """

    then: NDArray[np.float64]
    held: int
    within: float
    dims: tuple[int, ...] = ()

    def decide(
        self, now: NDArray[np.float64], tokens: ArrayLike, *, alpha: float, exhausted: bool
    ) -> PairedDecision:
        """See :func:`decide_paired`; ``now`` may be of fewer text blocks."""
        return decide_paired(
            change_of_delta(now, self.then[: len(now)]),
            tokens,
            within=self.within,
            both_ways=bool(self.dims),
            alpha=alpha,
            exhausted=exhausted,
        )

    def verdict(
        self,
        decision: PairedDecision,
        now: NDArray[np.float64],
        tokens: ArrayLike,
        *,
        intact: IntactFigures | None = None,
        alpha: float | None = None,
        **fields: Any,
    ) -> Verdict:
        """The verdict that a decision amounts to; ``alpha`` if that was sequential."""
        figures = BaselineFigures(
            text_blocks=self.held,
            then=ratio(self.then[: len(now)], tokens),
            now=ratio(now, tokens),
        )
        kept, times = decision.side == decision.passes, "x" if self.dims else ""
        statement = f"perplexity is less than {decision.threshold:g} times the baseline's"
        if self.dims:
            statement = (
                f"ablating {named(self.dims)} multiplies perplexity by as much as in the baseline, "
                f"within a factor of {self.within:g}"
            )
        blind = None
        if kept and not decision.exact and alpha is not None:
            blind = blind_share(decision.seen, alpha)
        return verdict_of(
            decision,
            statement,
            passes=decision.passes,
            threshold=float(decision.threshold),
            details=Details(baseline=figures, intact=intact, blind_share=blind),
            reason=(
                f"{times}{figures.now:.4g} against {times}{figures.then:.4g} on the same text "
                "blocks"
            ),
            **fields,
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

    def compared(before: ArrayLike, after: ArrayLike, **tolerance: Any) -> Verdict:
        both = min(len(np.asarray(before)), len(np.asarray(after)))
        pairing = Pairing(then=np.asarray(before)[:both], held=then.held, **tolerance)
        seen = np.asarray(after)[:both], then.tokens[:both]
        return pairing.verdict(pairing.decide(*seen, alpha=alpha, exhausted=True), *seen)

    verdicts = {
        "outliers": outlier_verdict(then.outliers, now.outliers, allowed=tolerances.dims),
        "perplexity": compared(then.nll_nats, now.nll_nats, within=tolerances.max_perplexity_ratio),
    }
    names, within = now.names_by_ablation, tolerances.max_degradation_ratio
    for key, name in then.names_by_ablation.items():
        if key in names:
            deltas = then.delta_nll(name), now.delta_nll(names[key])
            verdicts[name] = compared(*deltas, within=within, dims=then.ablated(name).dims)
    return verdicts


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
