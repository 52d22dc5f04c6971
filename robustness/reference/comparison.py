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
from robustness.statistics.decisions import decide_ratio
from robustness.statistics.details import Details
from robustness.statistics.effect_decisions import decide_effect
from robustness.statistics.figures import OutlierChanges
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

_OUTLIERS_KEPT = {
    "same": "the outlier dimensions are those of the reference",
    "subset": "no outlier dimension is new since the reference",
    "superset": "no outlier dimension of the reference is gone",
    "any": "outlier dimensions are compared with the reference's",
}


@dataclass(frozen=True, kw_only=True)
class Tolerances:
    """How far two checkpoints may lie apart.

    Attributes:
        dims: which outlier dimensions the newer may have: the ``same``, a ``subset`` of the
            older one's, a ``superset`` or ``any``.
        max_perplexity_ratio: how much larger perplexity may be than the older one's.
        effect: how many times as many nats an ablation may add, at least and at most.
    """

    dims: str
    max_perplexity_ratio: float
    effect: tuple[float, float]


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
    n = min(then.held, now.held)
    before, after = np.array(then.nll_nats[:n]), np.array(now.nll_nats[:n])
    within = tolerances.max_perplexity_ratio
    tokens = then.tokens[:n]
    decision = decide_ratio(after - before, tokens, threshold=within, alpha=alpha, exhausted=True)
    verdicts = {
        "outliers": outlier_verdict(then.outliers, now.outliers, allowed=tolerances.dims),
        "perplexity": verdict_of(
            decision,
            f"perplexity is less than {within:g} times the older one",
            passes="below",
            threshold=within,
            reason=f"{ratio(after, tokens):.4g} against {ratio(before, tokens):.4g}",
        ),
    }
    for key, name in then.names_by_ablation.items():
        if key in now.names_by_ablation:
            pair = now.delta_nll(now.names_by_ablation[key]), then.delta_nll(name)
            verdicts[name] = _effect(*pair, then.ablated(name).dims, tolerances, alpha)
    return verdicts


def _effect(
    after: NDArray[np.float64],
    before: NDArray[np.float64],
    dims: Sequence[int],
    tolerances: Tolerances,
    alpha: float,
) -> Verdict:
    n, (least, most) = min(len(after), len(before)), tolerances.effect
    after, before = after[:n], before[:n]
    decision = decide_effect(after, before, least=least, most=most, alpha=alpha, total=n)
    verdict = verdict_of(
        decision,
        f"ablating {named(dims)} adds {least:g} to {most:g} times as many nats as before",
        passes=decision.passes,
        threshold=decision.threshold,
        measure="factor",
        reason=decision.unresolved
        or f"{after.mean():+.4g} against {before.mean():+.4g} nats per text block",
    )
    unresolved = {"outcome": "not applicable"} if decision.unresolved else {}
    return verdict.model_copy(update=unresolved)


def ratio(nats: ArrayLike, tokens: ArrayLike) -> float:
    """exp(Σnats / Σtokens), infinite where it overflows."""
    mean = math.fsum(np.asarray(nats, dtype=np.float64)) / int(np.sum(tokens))
    return math.exp(mean) if mean < 700 else math.inf


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
