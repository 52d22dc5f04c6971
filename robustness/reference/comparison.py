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
from robustness.statistics.verdict import Decision, Side, Verdict, decide_ratio

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
    "same": "the outlier dimensions are those of the baseline",
    "subset": "no outlier dimension is new since the baseline",
    "superset": "no outlier dimension of the baseline is gone",
    "any": "outlier dimensions are compared with the baseline's",
}


@dataclass(frozen=True, kw_only=True)
class Paired:
    """What is known of a ratio between two checkpoints after some text blocks.

    Attributes:
        within: whether it lies within the tolerance; ``None`` while undecided.
        threshold: the end of the tolerance on whose side the ratio lies.
        passes: on which side of the threshold the tolerance is.
        look: the numbers.
    """

    within: bool | None
    threshold: float
    passes: Side
    look: Decision


def difference(
    then: CheckpointBaseline, now_conditions: Mapping[str, Any], now_corpus: str
) -> str | None:
    """The first condition under which two checkpoints were measured differently, in words.

    Args:
        then: the profile.
        now_conditions: of the checkpoint to compare.
        now_corpus: description of its text.
    """
    ours, theirs = dict(now_conditions), then.conditions
    rest = sorted({*ours, *theirs} - {*NAMES})
    for key in (*NAMES, *rest):
        if key in ours and key in theirs and ours[key] == theirs[key]:
            continue
        if key not in ours and key not in theirs:
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

    Args:
        then: of the baseline.
        now: of the checkpoint.
        allowed: ``same``, ``subset`` (of the baseline's), ``superset`` or ``any``.
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
        details={"appeared": appeared, "vanished": vanished, "other_layers": moved},
    )


def paired_look(
    change_nats: ArrayLike,
    tokens: ArrayLike,
    *,
    within: float,
    both_ways: bool,
    alpha: float,
    exhausted: bool,
) -> Paired:
    """Whether exp(Σchange / Σtokens) lies below ``within``, and above its inverse if both ways.

    One confidence sequence holds on both sides at once, so this is one comparison.

    Args:
        change_nats: what a text block's NLL, or ΔNLL, differs from the profile's; shape (n,).
        tokens: scored tokens, shape (n,).
        within: tolerance, a ratio above 1.
        both_ways: whether the inverse is an end of the tolerance, too.
        alpha: error probability over all looks.
        exhausted: whether these are all text blocks that the profile holds.
    """
    change = np.asarray(change_nats, dtype=np.float64)
    ends: list[tuple[float, Side]] = [(within, "below")]
    if both_ways:
        ends.append((1 / within, "above"))
    if np.isneginf(change).any():  # the baseline's degradation is infinite, this one is not
        return _infinitely_less(change, tokens, within, both_ways=both_ways)
    looks = [
        decide_ratio(change, tokens, threshold=end, alpha=alpha, exhausted=exhausted)
        for end, _ in ends
    ]
    sides = [(look.side, wanted) for look, (_, wanted) in zip(looks, ends, strict=True)]
    within_all: bool | None = None
    if any(side is not None and side != wanted for side, wanted in sides):
        within_all = False
    elif all(side == wanted for side, wanted in sides):
        within_all = True
    nearest = int(both_ways and looks[0].ratio < 1)
    threshold, passes = ends[nearest]
    return Paired(within=within_all, threshold=threshold, passes=passes, look=looks[nearest])


def change_of_delta(
    now_delta: NDArray[np.float64], then_delta: NDArray[np.float64]
) -> NDArray[np.float64]:
    """ΔNLL now minus then; two infinite ones do not differ."""
    both = np.isinf(now_delta) & np.isinf(then_delta)
    return np.subtract(now_delta, then_delta, out=np.zeros_like(now_delta), where=~both)


def perplexity_verdict(paired: Paired, *, then: float, now: float, alpha: float) -> Verdict:
    """That perplexity has not grown beyond the tolerance.

    Args:
        paired: what was found.
        then: perplexity of the baseline on the same text blocks.
        now: perplexity of the checkpoint.
        alpha: of the comparison.
    """
    statement = f"perplexity is less than {paired.threshold:g} times the baseline's"
    reason = f"{now:.4g} against {then:.4g} on the same text blocks"
    details = {"baseline_perplexity": then, "alpha": alpha}
    return _verdict(paired, statement, reason, details)


def degradation_verdict(
    paired: Paired, dims: Iterable[int], *, within: float, then: float, now: float, alpha: float
) -> Verdict:
    """That an ablation multiplies perplexity by about as much as in the baseline.

    Args:
        paired: what was found.
        dims: the dimensions ablated in both.
        within: tolerance.
        then: degradation of the baseline on the same text blocks.
        now: degradation of the checkpoint.
        alpha: of the comparison.
    """
    statement = (
        f"ablating {named(dims)} multiplies perplexity by as much as in the baseline, within a "
        f"factor of {within:g}"
    )
    reason = f"x{now:.4g} against x{then:.4g} on the same text blocks"
    details = {"ratio_now": now, "baseline_ratio": then, "alpha": alpha}
    return _verdict(paired, statement, reason, details)


def compare_baselines(
    then: CheckpointBaseline,
    now: CheckpointBaseline,
    *,
    allowed: str,
    max_perplexity_ratio: float,
    max_degradation_ratio: float,
    alpha: float,
) -> dict[str, Verdict]:
    """Two profiles, on the text blocks that both hold; verdicts by what they are about.

    The profiles must have been measured under the same conditions (:func:`difference`).
    """
    held = min(then.held, now.held)
    tokens = np.array(then.tokens[:held])
    ours, theirs = np.array(now.nll_nats[:held]), np.array(then.nll_nats[:held])
    perplexity = paired_look(
        ours - theirs,
        tokens,
        within=max_perplexity_ratio,
        both_ways=False,
        alpha=alpha,
        exhausted=True,
    )
    found = {
        "outliers": outlier_verdict(then.outliers, now.outliers, allowed=allowed),
        "perplexity": perplexity_verdict(
            perplexity, then=ratio(theirs, tokens), now=ratio(ours, tokens), alpha=alpha
        ),
    }
    by_ablation = {json.dumps(a.ablation, sort_keys=True): a.name for a in now.ablations}
    for ablated in then.ablations:
        name = by_ablation.get(json.dumps(ablated.ablation, sort_keys=True))
        if name is None:
            continue
        delta, before = now.delta_nll(name), then.delta_nll(ablated.name)
        held = min(len(delta), len(before))
        delta, before, counts = delta[:held], before[:held], np.array(then.tokens[:held])
        paired = paired_look(
            change_of_delta(delta, before),
            counts,
            within=max_degradation_ratio,
            both_ways=True,
            alpha=alpha,
            exhausted=True,
        )
        found[ablated.name] = degradation_verdict(
            paired,
            ablated.dims,
            within=max_degradation_ratio,
            then=ratio(before, counts),
            now=ratio(delta, counts),
            alpha=alpha,
        )
    return found


def ratio(nats: ArrayLike, tokens: ArrayLike) -> float:
    """exp(Σnats / Σtokens), infinite where it overflows."""
    mean = math.fsum(np.asarray(nats, dtype=np.float64)) / int(np.sum(tokens))
    return math.exp(mean) if mean < 700 else math.inf


def _infinitely_less(
    change: NDArray[np.float64], tokens: ArrayLike, within: float, *, both_ways: bool
) -> Paired:
    counts = np.asarray(tokens)
    mixed = bool(np.isposinf(change).any())  # infinite here, too, only elsewhere
    look = Decision(
        side=None if mixed else "below",
        ratio=1.0 if mixed else 0.0,
        interval=None,
        exact=True,
        text_blocks=len(change),
        tokens=int(counts.sum()),
    )
    passes: Side = "above" if both_ways else "below"
    threshold = 1 / within if both_ways else within
    return Paired(within=mixed or not both_ways, threshold=threshold, passes=passes, look=look)


def _verdict(paired: Paired, statement: str, reason: str, details: Mapping[str, Any]) -> Verdict:
    return Verdict.of(
        paired.look,
        "inconclusive" if paired.within is None else "pass" if paired.within else "fail",
        statement=statement,
        threshold=paired.threshold,
        passes=paired.passes,
        reason=reason,
        details=details,
    )


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
