"""Sequential decision: on which side of a threshold a growing stream of ΔNLLs lies.

The functions ``look_at_…`` are asked after every chunk of text blocks with everything seen so far,
and say on which side of a threshold the corpus lies, or that it is still open. They keep nothing
between calls.

A side is ``above`` when the corpus value is at least the threshold, as "multiplies perplexity by at
least 1.05" asks, and ``below`` otherwise.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from robustness.errors import MeasurementError
from robustness.statistics.sequential import (
    check_alpha,
    mean_side,
    median_interval,
    median_side,
    ratio_interval,
    ratio_side,
    sign_log_e_values,
    summarise,
)

CHUNK = 16
"""Text blocks between two looks."""

Side: TypeAlias = Literal["above", "below"]

_SIDES: Mapping[int, Side | None] = {1: "above", -1: "below", 0: None}
NOTHING_EXCLUDED = (0.0, math.inf)
"""The interval of a ratio before the first decision is allowed."""

_QUANTILES = (0.05, 0.25, 0.75, 0.9, 0.95, 0.99)
_DRAWS_BEYOND_A_QUANTILE = 3
_WORST_DRAWS = 5


@dataclass(frozen=True, kw_only=True)
class Decision:
    """What the evidence so far says of a number: on which side of a threshold it lies.

    Attributes:
        side: where the corpus value lies relative to the threshold; ``None`` while undecided.
        measured: the number for what was seen: exp(ΣΔNLL / Σtokens), which may be infinite, or
            the drop of a score.
        interval: the thresholds that the evidence does not exclude; ``None`` if exact.
        exact: the number is the corpus value itself and not an estimate: the corpus is used up, or
            an infinite ΔNLL makes it infinite whatever follows.
        seen: text blocks, or examples, that it rests on.
        tokens: scored tokens in them.
    """

    side: Side | None
    measured: float
    interval: tuple[float, float] | None
    exact: bool
    seen: int
    tokens: int = 0


@dataclass(frozen=True, kw_only=True)
class MedianDecision:
    """What is known of random draws.

    Attributes:
        side: where the median degradation of a draw lies; ``None`` while undecided.
        e_values: evidence for ``below`` and for ``above``; either decides from 1/alpha on.
        draws: draws seen.
        tokens: scored tokens seen.
        median: of the draws' degradations (geometric middle of the two middle ones).
        mean: exp(ΣΔNLL / Σtokens) over all draws, the average loss of the paper's 1000 draws.
        interval: the medians that the evidence does not exclude.
        worst: indices of the draws with the largest degradation, the largest first.
        quantiles: level, as text, to degradation: an order statistic with at least 3 draws beyond.
    """

    side: Side | None
    e_values: tuple[float, float]
    draws: int
    tokens: int
    median: float
    mean: float
    interval: tuple[float, float]
    worst: tuple[int, ...]
    quantiles: Mapping[str, float]
    exact: ClassVar[bool] = False

    @property
    def measured(self) -> float:
        """The median."""
        return self.median


@dataclass(frozen=True, kw_only=True)
class FactorDecision:
    """What is known of a joint ablation beside random ones on the same text blocks.

    Attributes:
        side: ``above`` when the joint mean ΔNLL is positive and at least ``factor`` times the
            control's, ``below`` when one of these does not hold; ``None`` while undecided.
        joint_mean: nats per text block; may be infinite.
        control_mean: nats per text block; may be infinite.
        measured: joint over control mean, a description that decides nothing. With a control
            mean of 0 or less it is infinite if the joint mean is positive, else 0.
        seen: text blocks, over all passes.
    """

    side: Side | None
    joint_mean: float
    control_mean: float
    measured: float
    seen: int
    interval: ClassVar[None] = None
    exact: ClassVar[bool] = False


def decide_ratio(
    delta_nll: ArrayLike,
    tokens: ArrayLike,
    *,
    threshold: float,
    alpha: float,
    exhausted: bool = False,
    minimum: int = 32,
    slack_nats: float = 0.0,
) -> Decision:
    """Compare the corpus ratio exp(ΣΔNLL / Σtokens) with a threshold.

    Before ``minimum`` text blocks nothing is excluded. When the corpus is used up its value is
    known and decides; if it was measured in reduced precision it is known up to ``slack_nats``, and
    stays undecided where the threshold lies within.

    Args:
        delta_nll: nats per text block, shape (n,), in the order of the text blocks.
        tokens: scored tokens per text block, shape (n,).
        threshold: on the ratio, positive.
        alpha: error probability over all looks.
        exhausted: whether these are all text blocks of the corpus.
        minimum: text blocks before the first decision.
        slack_nats: see :func:`robustness.statistics.precision.reduced_precision`.

    Raises:
        MeasurementError: if a ΔNLL is NaN or -inf, or no token was scored.
        ValueError: if an argument is out of its range.
    """
    delta = nats(delta_nll)
    counts = counts_of(tokens, of=delta)
    log_threshold = log_of(threshold)
    check_alpha(alpha)
    mean = math.fsum(delta) / math.fsum(counts)
    exact = bool(np.isinf(mean)) or (exhausted and slack_nats == 0)
    side: Side | None = None
    interval: tuple[float, float] | None = NOTHING_EXCLUDED
    if exact:
        side, interval = "above" if _exp(mean) >= threshold else "below", None
    elif exhausted:
        margin = slack_nats * len(delta) / math.fsum(counts)
        interval = (_exp(mean - margin), _exp(mean + margin))
        side = _SIDES[int(interval[0] > threshold) - int(interval[1] < threshold)]
    elif len(delta) >= minimum:
        levels = {"alpha": alpha, "slack": slack_nats}
        side = _SIDES[int(ratio_side(delta, counts, log_threshold=log_threshold, **levels))]
        ends = ratio_interval(delta, counts, **levels)
        interval = _agreeing(ends, side, threshold)
    return Decision(
        side=side,
        measured=_exp(mean),
        interval=interval,
        exact=exact,
        seen=len(delta),
        tokens=int(counts.sum()),
    )


def decide_share(
    counted: ArrayLike,
    of: ArrayLike,
    *,
    threshold: float,
    alpha: float,
    exhausted: bool = False,
    minimum: int = 32,
) -> Decision:
    """Compare the corpus share Σcounted / Σof with a threshold.

    By the rule for ratios, on r = counted - threshold * of of each text block.

    Args:
        counted: per text block, shape (n,), in the order of the text blocks.
        of: out of how many, shape (n,).
        threshold: on the share, from 0 to 1.
        alpha: error probability over all looks.
        exhausted: whether these are all text blocks of the corpus.
        minimum: text blocks before the first decision.

    Raises:
        MeasurementError: if nothing was counted at all.
        ValueError: if an argument is out of its range.
    """
    part = nats(counted)
    whole = counts_of(of, of=part)
    if not 0 <= threshold <= 1:
        raise ValueError(f"a threshold on a share must lie between 0 and 1, not {threshold!r}")
    check_alpha(alpha)
    share = math.fsum(part) / math.fsum(whole)
    side: Side | None = None
    interval: tuple[float, float] | None = None
    if exhausted:
        side = "above" if share >= threshold else "below"
    elif len(part) >= minimum:
        side = _SIDES[int(ratio_side(part, whole, log_threshold=threshold, alpha=alpha))]
        low, high = ratio_interval(part, whole, alpha=alpha)
        interval = (min(max(0.0, low), share), max(min(1.0, high), share))
    return Decision(
        side=side,
        measured=share,
        interval=interval,
        exact=exhausted,
        seen=len(part),
        tokens=int(whole.sum()),
    )


def decide_median(
    draw_delta_nll: ArrayLike,
    draw_tokens: ArrayLike,
    *,
    threshold: float,
    alpha: float,
    minimum: int = 64,
    slack: float = 0.0,
) -> MedianDecision:
    """Compare the median degradation of a random draw with a threshold.

    By the exact sign test of `sequential.sign_log_e_values` on the draws'
    X = ΣΔNLL / Σtokens. A draw that lies exactly at the threshold counts against either decision.

    Args:
        draw_delta_nll: nats per draw, shape (draws,), +inf allowed.
        draw_tokens: scored tokens per draw, all positive.
        threshold: on the ratio, positive.
        alpha: error probability in each direction, over all looks.
        minimum: draws before the first decision.
        slack: possible systematic error of X, where it was measured in reduced precision.

    Raises:
        MeasurementError: if a ΔNLL is NaN or -inf, or a draw has no scored token.
        ValueError: if an argument is out of its range.
    """
    delta = nats(draw_delta_nll)
    counts = counts_of(draw_tokens, of=delta)
    if not counts.all():
        raise MeasurementError("a random draw has no scored token; use longer text blocks")
    log_ratio = delta / counts
    relative = log_ratio - log_of(threshold)
    n = len(relative)
    log_e_values = sign_log_e_values(n)
    side: Side | None = None
    interval = NOTHING_EXCLUDED
    if n >= minimum:
        above = int(median_side(relative - slack, alpha=alpha)) > 0
        below = int(median_side(relative + slack, alpha=alpha)) < 0
        side = _SIDES[int(above) - int(below)]
        low, high = median_interval(log_ratio, alpha=alpha)
        interval = _agreeing((low - slack, high + slack), side, threshold)
    ordered = np.sort(log_ratio)
    return MedianDecision(
        side=side,
        e_values=(
            _exp(log_e_values[(relative + slack >= 0).sum()]),
            _exp(log_e_values[(relative - slack <= 0).sum()]),
        ),
        draws=n,
        tokens=int(counts.sum()),
        median=_exp((ordered[(n - 1) // 2] + ordered[n // 2]) / 2),
        mean=_exp(math.fsum(delta) / math.fsum(counts)),
        interval=interval,
        worst=tuple(np.argsort(-log_ratio, kind="stable")[:_WORST_DRAWS].tolist()),
        quantiles=_quantiles(ordered),
    )


def decide_factor(
    joint_delta_nll: ArrayLike,
    control_delta_nll: ArrayLike,
    *,
    factor: float,
    alpha: float,
    minimum: int = 128,
    draws: ArrayLike | None = None,
    joint_corpus_nats: float | None = None,
    slack_nats: tuple[float, float] = (0.0, 0.0),
) -> FactorDecision:
    """Ask whether the joint mean ΔNLL is positive and at least ``factor`` times the control's.

    Decided on s = joint - factor * control of each text block, never on a ratio of two estimates,
    and on the joint ΔNLL itself, by the same rule; ``above`` needs both. The joint ablation is a
    fixed one: once the corpus is used up its ΔNLL is known, and decides its part exactly.

    Text blocks that share a random draw share its harm, and n of them are no n independent
    observations. With ``draws`` the sums over the text blocks of each draw are the sample; without,
    every text block counts as a draw of its own.

    Args:
        joint_delta_nll: nats per text block, shape (n,).
        control_delta_nll: of a random ablation on the same text blocks, shape (n,).
        factor: positive.
        alpha: error probability over all looks.
        minimum: draws before the first decision.
        draws: number of the draw that each text block belongs to, from 0 on, shape (n,).
        joint_corpus_nats: the joint ΔNLL of the whole corpus, where it is known.
        slack_nats: of joint - factor * control and of joint, per text block, where they were
            measured in reduced precision; the joint ΔNLL is then never exactly known.

    Raises:
        MeasurementError: if a ΔNLL is NaN or -inf.
        ValueError: if an argument is out of its range.
    """
    joint, control = nats(joint_delta_nll), nats(control_delta_nll)
    if joint.shape != control.shape:
        raise ValueError("joint and control ΔNLL must be of the same text blocks")
    if not 0 < factor < math.inf:
        raise ValueError(f"factor must be positive and finite, not {factor!r}")
    check_alpha(alpha)
    numbers = np.arange(len(joint)) if draws is None else np.asarray(draws)
    if numbers.shape != joint.shape:
        raise ValueError("every text block needs the number of its draw")
    joint_mean, control_mean = float(np.mean(joint)), float(np.mean(control))
    if math.isinf(control_mean):
        side: Side | None = "below"
    elif math.isinf(joint_mean):
        side = "above"
    elif joint_corpus_nats is not None and joint_corpus_nats <= 0:
        side = "below"
    elif len(np.unique(numbers)) < minimum:
        side = None
    else:
        samples = [joint - factor * control, *([joint] if joint_corpus_nats is None else [])]
        per_draw = len(joint) / len(np.unique(numbers))  # text blocks
        needed = (
            mean_side(
                summarise(np.bincount(numbers, weights=sample)), alpha, slack=slack * per_draw
            )
            for sample, slack in zip(samples, slack_nats, strict=False)
        )
        side = _SIDES[min(map(int, needed))]
    return FactorDecision(
        side=side,
        joint_mean=joint_mean,
        control_mean=control_mean,
        measured=_described_ratio(joint_mean, control_mean),
        seen=len(joint),
    )


def nats(delta_nll: ArrayLike) -> NDArray[np.float64]:
    """ΔNLLs as an array of shape (n,), n >= 1.

    Raises:
        MeasurementError: if one is NaN or -inf.
        ValueError: if they are not in a row.
    """
    values = np.asarray(delta_nll, dtype=np.float64)
    if values.ndim != 1 or not len(values):
        raise ValueError(f"ΔNLLs must be one or more numbers in a row, not of shape {values.shape}")
    if np.isnan(values).any() or np.isneginf(values).any():
        raise MeasurementError(
            "a ΔNLL is not a number or minus infinity, so the model's own likelihoods are not "
            "finite; check its weights, and measure in float32"
        )
    return values


def counts_of(tokens: ArrayLike, *, of: NDArray[np.float64]) -> NDArray[np.float64]:
    """Token counts of as many text blocks.

    Raises:
        MeasurementError: if no token was scored.
        ValueError: if they are not counts, or not as many.
    """
    counts = np.asarray(tokens, dtype=np.float64)
    if counts.shape != of.shape:
        raise ValueError(f"{len(of)} ΔNLLs need as many token counts, not {counts.shape}")
    if not (np.isfinite(counts) & (counts >= 0)).all():
        raise ValueError("token counts must be finite and not negative")
    if not counts.any():
        raise MeasurementError("no token has been scored; use longer text blocks")
    return counts


def log_of(threshold: float) -> float:
    """Its logarithm.

    Raises:
        ValueError: if it is not positive and finite.
    """
    if not 0 < threshold < math.inf:
        raise ValueError(f"a threshold on a ratio must be positive and finite, not {threshold!r}")
    return math.log(threshold)


def _exp(value: float) -> float:
    """exp, infinite where it overflows."""
    try:
        return math.exp(value)
    except OverflowError:
        return math.inf


def _agreeing(
    log_interval: tuple[float, float], side: Side | None, threshold: float
) -> tuple[float, float]:
    """Interval of ratios, the last bit of exp and log rounded so that it shows the decision."""
    low, high = _exp(log_interval[0]), _exp(log_interval[1])
    if side == "above":
        return max(low, math.nextafter(threshold, math.inf)), high
    if side == "below":
        return low, min(high, math.nextafter(threshold, 0.0))
    return min(low, threshold), max(high, threshold)


def _quantiles(ordered: NDArray[np.float64]) -> dict[str, float]:
    n = len(ordered)
    found = {}
    for level in _QUANTILES:
        rank = math.ceil(level * n)  # inverse of the empirical distribution function
        beyond = n - rank if level > 0.5 else rank - 1
        if beyond >= _DRAWS_BEYOND_A_QUANTILE:
            found[f"{level:g}"] = _exp(ordered[rank - 1])
    return found


def _described_ratio(joint_mean: float, control_mean: float) -> float:
    if control_mean <= 0:
        return math.inf if joint_mean > 0 else 0.0
    return joint_mean / control_mean if math.isfinite(control_mean) else 0.0
