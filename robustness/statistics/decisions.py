"""Sequential decision: on which side of a threshold a growing stream of ΔNLLs lies.

The functions ``decide_…`` are asked after every chunk of text blocks with everything seen so far.
A side is ``above`` when the corpus value is at least the threshold, as "multiplies perplexity by at
least 1.05" asks, and ``below`` otherwise.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from robustness.errors import MeasurementError
from robustness.statistics.figures import PrecisionCost
from robustness.statistics.sequential import check_alpha, ratio_interval, ratio_side, summarise

Side: TypeAlias = Literal["above", "below"]

SIDES: Mapping[int, Side | None] = {1: "above", -1: "below", 0: None}
"""The sides by their signs in :mod:`robustness.statistics.sequential`."""

FIRST_LOOK_AT_SHARES = 64
"""Text blocks before which no share or divergence is decided: what is counted is never negative and
often 0, and at 32 the rule erred more often than it may on real pairs of models."""

NOTHING_EXCLUDED = (0.0, math.inf)
"""The interval of a ratio before the first decision is allowed."""


@dataclass(frozen=True, kw_only=True)
class Decision:
    """What the evidence so far says of a number: on which side of a threshold it lies.

    Attributes:
        side: where the corpus value lies relative to the threshold; ``None`` while undecided.
        measured: the number for what was seen, say exp(ΣΔNLL / Σtokens); may be infinite.
        interval: the thresholds that the evidence does not exclude; ``None`` if it is exact, or is
            no estimate.
        exact: the number is the corpus value itself: the corpus is used up, or an infinite ΔNLL
            makes it infinite whatever follows.
        seen: text blocks, or examples, that it rests on.
        tokens: scored tokens in them.
        draws: random draws, where these are what is compared.
    """

    side: Side | None
    measured: float
    interval: tuple[float, float] | None = None
    exact: bool = False
    seen: int
    tokens: int = 0
    draws: int | None = None

    @property
    def ends(self) -> tuple[float, float] | None:
        """The interval as a report holds it, in plain floats."""
        return None if self.interval is None else (float(self.interval[0]), float(self.interval[1]))


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

    When the corpus is used up its value is known and decides; if it was measured in reduced
    precision it is known up to ``slack_nats``, and stays undecided where the threshold lies within.

    Args:
        delta_nll: nats per text block, shape (n,), in the order of the text blocks.
        tokens: scored tokens per text block, shape (n,).
        threshold: on the ratio, positive.
        alpha: error probability over all looks.
        exhausted: whether these are all text blocks of the corpus.
        minimum: text blocks before which nothing is excluded.
        slack_nats: see :func:`reduced_precision`.

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
        side, interval = "above" if exp(mean) >= threshold else "below", None
    elif exhausted:
        margin = slack_nats * len(delta) / math.fsum(counts)
        interval = (exp(mean - margin), exp(mean + margin))
        side = SIDES[int(interval[0] > threshold) - int(interval[1] < threshold)]
    elif len(delta) >= minimum:
        levels = {"alpha": alpha, "slack": slack_nats}
        side = SIDES[int(ratio_side(delta, counts, log_threshold=log_threshold, **levels))]
        ends = ratio_interval(delta, counts, **levels)
        interval = agreeing(ends, side, threshold)
    return Decision(
        side=side,
        measured=exp(mean),
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
    minimum: int = FIRST_LOOK_AT_SHARES,
    most: float = 1.0,
    slack: float = 0.0,
) -> Decision:
    """Compare the corpus share Σcounted / Σof, each of shape (n,), with a threshold from 0 on.

    By the rule for ratios, on r = counted - threshold * of of each text block; ``alpha``,
    ``exhausted`` and ``minimum`` are as for :func:`decide_ratio`. No share is larger than
    ``most``; what was counted may be off systematically by ``slack`` per text block.
    """
    part = nats(counted)
    whole = counts_of(of, of=part)
    if not 0 <= threshold <= most:
        raise ValueError(f"a threshold on a share must lie between 0 and {most}, not {threshold!r}")
    check_alpha(alpha)
    share = math.fsum(part) / math.fsum(whole)
    side: Side | None = None
    interval: tuple[float, float] | None = None
    exact = bool(np.isinf(share)) or (exhausted and slack == 0)
    if exact:
        side = "above" if share >= threshold else "below"
    elif exhausted:
        margin = slack * len(part) / math.fsum(whole)
        interval = (max(0.0, share - margin), min(most, share + margin))
        side = SIDES[int(interval[0] > threshold) - int(interval[1] < threshold)]
    elif len(part) >= minimum:
        levels = {"alpha": alpha, "slack": slack}
        side = SIDES[int(ratio_side(part, whole, log_threshold=threshold, **levels))]
        low, high = ratio_interval(part, whole, **levels)
        interval = (min(max(0.0, low), share), max(min(most, high), share))
    return Decision(
        side=side,
        measured=share,
        interval=interval,
        exact=exact,
        seen=len(part),
        tokens=int(whole.sum()),
    )


def reduced_precision(
    reduced_delta_nll: ArrayLike,
    float32_delta_nll: ArrayLike,
    tokens: ArrayLike,
    *,
    threshold: float,
    of_draws: bool = False,
) -> PrecisionCost:
    """What reduced precision costs one check: how far its interval has to be widened.

    With e = r(reduced) - r(float32) per text block, where the threshold cancels, the interval of a
    mean has to be widened by abs(mean e) + 3 standard errors of it.

    Args:
        reduced_delta_nll: nats per text block, shape (n,), n >= 2.
        float32_delta_nll: of the same text blocks (and draws).
        tokens: scored tokens per text block.
        threshold: on the ratio.
        of_draws: whether the median of random draws is decided: its distance from the threshold is
            that of the typical text block, not the mean one.
    """
    reduced, full = nats(reduced_delta_nll), nats(float32_delta_nll)
    counts = counts_of(tokens, of=full)
    if reduced.shape != full.shape or len(full) < 2:
        raise ValueError("two precisions are compared on the same text blocks, at least two")
    if np.isinf(reduced).any() or np.isinf(full).any():
        return PrecisionCost(slack_nats=math.inf, distance_nats=math.inf)
    error = summarise(reduced - full)
    slack = abs(float(error.mean)) + 3 * float(error.std) / math.sqrt(len(full))
    middle = np.median if of_draws else np.mean
    distance = abs(float(middle(full - log_of(threshold) * counts)))
    return PrecisionCost(slack_nats=slack, distance_nats=distance)


def nats(delta_nll: ArrayLike) -> NDArray[np.float64]:
    """ΔNLLs as an array of shape (n,), n >= 1; refused are NaN and -inf."""
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
    """Token counts of as many text blocks, refused where they are none, or nothing was scored."""
    counts = np.asarray(tokens, dtype=np.float64)
    if counts.shape != of.shape:
        raise ValueError(f"{len(of)} ΔNLLs need as many token counts, not {counts.shape}")
    if not (np.isfinite(counts) & (counts >= 0)).all():
        raise ValueError("token counts must be finite and not negative")
    if not counts.any():
        raise MeasurementError("no token has been scored; use longer text blocks")
    return counts


def log_of(threshold: float) -> float:
    """The logarithm of a threshold on a ratio, which must be positive and finite."""
    if not 0 < threshold < math.inf:
        raise ValueError(f"a threshold on a ratio must be positive and finite, not {threshold!r}")
    return math.log(threshold)


def exp(value: float) -> float:
    """exp, infinite where it overflows."""
    try:
        return math.exp(value)
    except OverflowError:
        return math.inf


def agreeing(
    log_interval: tuple[float, float], side: Side | None, threshold: float
) -> tuple[float, float]:
    """Interval of ratios, the last bit of exp and log rounded so that it shows the decision."""
    low, high = exp(log_interval[0]), exp(log_interval[1])
    if side == "above":
        return max(low, math.nextafter(threshold, math.inf)), high
    if side == "below":
        return low, min(high, math.nextafter(threshold, 0.0))
    return min(low, threshold), max(high, threshold)
