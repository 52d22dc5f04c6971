"""Decisions on random draws: the median of their degradations, and how much more others harm."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from robustness.errors import MeasurementError
from robustness.statistics.decisions import (
    NOTHING_EXCLUDED,
    SIDES,
    Decision,
    Side,
    agreeing,
    counts_of,
    exp,
    log_of,
    nats,
)
from robustness.statistics.sequential import (
    check_alpha,
    mean_side,
    median_interval,
    median_side,
    summarise,
)

_QUANTILES = (0.05, 0.25, 0.75, 0.9, 0.95, 0.99)
_DRAWS_BEYOND_A_QUANTILE = 3
_WORST_DRAWS = 5


@dataclass(frozen=True, kw_only=True)
class MedianDecision(Decision):
    """What is known of random draws; the number is their median degradation.

    Attributes:
        mean: exp(ΣΔNLL / Σtokens) over all draws, the average loss of the paper's 1000 draws.
        worst: indices of the draws with the largest degradation, the largest first.
        quantiles: level, as text, to degradation: an order statistic with at least 3 draws beyond.
    """

    mean: float
    worst: tuple[int, ...]
    quantiles: Mapping[str, float]


@dataclass(frozen=True, kw_only=True)
class FactorDecision(Decision):
    """What is known of a joint ablation beside random ones on the same text blocks or examples.

    The side is ``above`` when the joint mean is positive and at least a factor times the control's,
    ``below`` when one of these does not hold. The number, joint over control mean, decides nothing.

    Attributes:
        joint_mean: nats per text block, or the drop of a score; may be infinite.
        control_mean: that of the random ablations.
    """

    joint_mean: float
    control_mean: float

    @classmethod
    def of(
        cls, side: Side | None, joint: NDArray[np.float64], control: NDArray[np.float64]
    ) -> "FactorDecision":
        """The decision with its means; where no control does harm the number is infinite or 0."""
        joint_mean, control_mean = float(np.mean(joint)), float(np.mean(control))
        measured = math.inf if control_mean <= 0 < joint_mean else 0.0
        if 0 < control_mean < math.inf:
            measured = joint_mean / control_mean
        return cls(
            side=side,
            measured=measured,
            seen=len(joint),
            joint_mean=joint_mean,
            control_mean=control_mean,
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

    By the exact sign test (:func:`robustness.statistics.sequential.median_side`) on the draws'
    X = ΣΔNLL / Σtokens. A draw exactly at the threshold counts against either decision.

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
    side: Side | None = None
    interval = NOTHING_EXCLUDED
    if n >= minimum:
        above = int(median_side(relative - slack, alpha=alpha)) > 0
        below = int(median_side(relative + slack, alpha=alpha)) < 0
        side = SIDES[int(above) - int(below)]
        low, high = median_interval(log_ratio, alpha=alpha)
        interval = agreeing((low - slack, high + slack), side, threshold)
    ordered = np.sort(log_ratio)
    return MedianDecision(
        side=side,
        measured=exp((ordered[(n - 1) // 2] + ordered[n // 2]) / 2),
        interval=interval,
        seen=n,
        draws=n,
        tokens=int(counts.sum()),
        mean=exp(math.fsum(delta) / math.fsum(counts)),
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
    observations: the sample is the sums over the text blocks of each draw.

    Args:
        joint_delta_nll: nats per text block that a fixed ablation adds, shape (n,).
        control_delta_nll: the same for a random ablation of these text blocks.
        factor: positive.
        alpha: error probability over all looks.
        minimum: draws before the first decision.
        draws: number of the draw that each text block belongs to, from 0 on, shape (n,); without,
            every text block counts as a draw of its own.
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
    side: Side | None = None
    if math.isinf(control_mean):
        side = "below"
    elif math.isinf(joint_mean):
        side = "above"
    elif joint_corpus_nats is not None and joint_corpus_nats <= 0:
        side = "below"
    elif len(np.unique(numbers)) >= minimum:
        samples = [joint - factor * control, *([joint] if joint_corpus_nats is None else [])]
        side = SIDES[_least_side(samples, numbers, alpha, slack_nats)]
    return FactorDecision.of(side, joint, control)


def _least_side(
    samples: Sequence[NDArray[np.float64]],
    draws: NDArray[np.int64],
    alpha: float,
    slack_nats: Sequence[float],
) -> int:
    """The side of the means of all samples, each of sums over a draw's text blocks."""
    blocks = len(draws) / len(np.unique(draws))
    return min(
        int(mean_side(summarise(np.bincount(draws, weights=values)), alpha, slack=slack * blocks))
        for values, slack in zip(samples, slack_nats, strict=False)
    )


def _quantiles(ordered: NDArray[np.float64]) -> dict[str, float]:
    n = len(ordered)
    quantiles = {}
    for level in _QUANTILES:
        rank = math.ceil(level * n)  # inverse of the empirical distribution function
        beyond = n - rank if level > 0.5 else rank - 1
        if beyond >= _DRAWS_BEYOND_A_QUANTILE:
            quantiles[f"{level:g}"] = exp(ordered[rank - 1])
    return quantiles
