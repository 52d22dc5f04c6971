"""What reduced precision costs a check: how far its interval has to be widened.

From text blocks measured in both precisions; a check whose threshold is too near for that is
measured in float32 alone.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from robustness.statistics.decisions import counts_of, log_of, nats
from robustness.statistics.figures import PrecisionCost
from robustness.statistics.sequential import summarise

NEAR = 0.1
"""Share of the distance to the threshold that the widening may take."""


@dataclass(frozen=True, kw_only=True)
class Precision:
    """What measuring in reduced precision costs a check, in nats per text block.

    Attributes:
        slack_nats: possible systematic error of a mean ΔNLL.
        distance_nats: of that mean from the threshold.
        needs_float32: the error is no small part (over 10 %) of the distance.
    """

    slack_nats: float
    distance_nats: float
    needs_float32: bool

    def cost(self) -> PrecisionCost:
        """What a report shows of it."""
        return PrecisionCost(
            slack_nats=float(self.slack_nats), distance_nats=float(self.distance_nats)
        )


def reduced_precision(
    reduced_delta_nll: ArrayLike,
    float32_delta_nll: ArrayLike,
    tokens: ArrayLike,
    *,
    threshold: float,
    of_draws: bool = False,
) -> Precision:
    """What reduced precision costs one check, from text blocks measured in both precisions.

    With e = r(reduced) - r(float32) per text block, where the threshold cancels, the interval of a
    mean has to be widened by abs(mean e) + 3 standard errors of it.

    Args:
        reduced_delta_nll: nats per text block, shape (n,), n >= 2.
        float32_delta_nll: of the same text blocks (and draws).
        tokens: scored tokens per text block.
        threshold: on the ratio.
        of_draws: whether the median of random draws is decided: its distance from the threshold is
            that of the typical text block, not the mean one.

    Raises:
        MeasurementError: if a ΔNLL is NaN or -inf, or no token was scored.
        ValueError: if there are fewer than two text blocks, or an argument is out of its range.
    """
    reduced, full = nats(reduced_delta_nll), nats(float32_delta_nll)
    counts = counts_of(tokens, of=full)
    if reduced.shape != full.shape or len(full) < 2:
        raise ValueError("two precisions are compared on the same text blocks, at least two")
    if np.isinf(reduced).any() or np.isinf(full).any():
        return Precision(slack_nats=math.inf, distance_nats=math.inf, needs_float32=True)
    error = summarise(reduced - full)
    slack = abs(float(error.mean)) + 3 * float(error.std) / math.sqrt(len(full))
    middle = np.median if of_draws else np.mean
    distance = abs(float(middle(full - log_of(threshold) * counts)))
    near = slack > NEAR * distance
    return Precision(slack_nats=slack, distance_nats=distance, needs_float32=near)
