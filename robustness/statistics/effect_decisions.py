"""Whether an ablation does as much in one model as in another: two effects, never their ratio."""

import math
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from robustness.errors import MeasurementError
from robustness.statistics.decisions import Decision, Side
from robustness.statistics.sequential import (
    mean_bounds,
    mean_side,
    ratio_interval,
    ratio_side,
    summarise,
)

Nats = NDArray[np.float64]

FIRST_LOOK = 32
"""Text blocks before which nothing is decided."""

FIRST_GIVING_UP = 64
"""Text blocks before which it is not asked whether the corpus is too small for a decision."""


@dataclass(frozen=True, kw_only=True)
class EffectDecision(Decision):
    """What is known of an effect beside the reference's.

    Attributes:
        threshold: the end of the allowed range that lies next to the effect.
        passes: the good side of that end.
        unresolved: why the whole corpus could not decide it, or ``None``.
    """

    threshold: float
    passes: Side
    unresolved: str | None = None


def decide_effect(
    delta_nll: ArrayLike,
    reference_delta_nll: ArrayLike,
    *,
    least: float,
    most: float,
    alpha: float,
    total: int,
) -> EffectDecision:
    """Compare Σ delta with ``least`` and with ``most`` times Σ reference's (STATISTICS.md).

    Both are what the same ablation adds to two models' NLLs on the same text blocks, in nats, shape
    (n,), of a corpus of ``total``. These are two comparisons, each of them at ``alpha``.

    Raises:
        MeasurementError: if a number is NaN, or minus infinity.
    """
    delta, then = (np.asarray(x, dtype=np.float64) for x in (delta_nll, reference_delta_nll))
    if np.isnan([delta, then]).any() or np.isneginf([delta, then]).any():
        raise MeasurementError("what an ablation adds to an NLL is not a number")
    if np.isinf(delta).any() or np.isinf(then).any():
        return _infinite(delta, then, least, most)
    return _decided(delta, then, _Range(least=least, most=most, alpha=alpha, total=total))


def _decided(delta: Nats, then: Nats, range_: "_Range") -> EffectDecision:
    n, exhausted, unresolved = len(delta), len(delta) >= range_.total, None
    outside = range_.outside(delta, then, exact=False)
    if outside is None:
        unresolved = range_.unresolved(delta, then)
        if exhausted and unresolved is None:
            outside = range_.outside(delta, then, exact=True)
    number = float(delta.sum() / then.sum()) if then.sum() > 0 else math.nan
    threshold, passes = range_.nearest(number)
    side: Side | None = None
    if outside == "below":
        threshold, passes, side = range_.least, "above", "below"
    elif outside == "above":
        threshold, passes, side = range_.most, "below", "above"
    elif outside == "inside":
        side = passes
    measured = not exhausted and n >= FIRST_LOOK
    return EffectDecision(
        side=side,
        measured=number,
        interval=ratio_interval(delta, then, alpha=range_.alpha) if measured else None,
        exact=exhausted and unresolved is None,
        seen=n,
        threshold=threshold,
        passes=passes,
        unresolved=unresolved,
    )


@dataclass(frozen=True, kw_only=True)
class _Range:
    """What an effect may be, in multiples of the reference's."""

    least: float
    most: float
    alpha: float
    total: int

    def nearest(self, number: float) -> tuple[float, Side]:
        """The end next to a number, and the good side of that."""
        if number > math.sqrt(self.least * self.most):
            return self.most, "below"
        return self.least, "above"

    def outside(self, delta: Nats, then: Nats, *, exact: bool) -> Literal["inside"] | Side | None:
        """Where the effect certainly lies: inside, ``below`` it or ``above``."""
        if not exact and len(delta) < FIRST_LOOK:
            return None
        signs = [
            math.copysign(1, math.fsum(delta - factor * then))
            if exact
            else int(ratio_side(delta, then, log_threshold=factor, alpha=self.alpha))
            for factor in (self.least, self.most)
        ]
        if signs[0] < 0:
            return "below"
        if signs[1] > 0:
            return "above"
        return "inside" if signs[0] > 0 > signs[1] else None

    def unresolved(self, delta: Nats, then: Nats) -> str | None:
        """Why all text blocks of the corpus could not tell both ends apart, if so."""
        n, exhausted = len(delta), len(delta) >= self.total
        if n < 2 or (n < FIRST_GIVING_UP and not exhausted):
            return None
        harm = float(then.mean())
        if (exhausted and harm <= 0) or int(mean_side(summarise(then), self.alpha)) < 0:
            return "the reference itself loses nothing by it on this text"
        widths = 0.0
        for factor in (self.least, self.most):
            so_far = summarise(delta - factor * then)
            whole = replace(so_far, n=np.asarray(float(max(n, self.total))))
            lower, upper = mean_bounds(whole, self.alpha)
            widths += float(upper - lower) / 2
        if (self.most - self.least) * harm >= widths:
            return None
        return (
            f"the reference itself loses {harm:.3g} nats per text block by it, too little for "
            f"{self.total} text blocks to tell {self.least:g} times that from {self.most:g} times"
        )


def _infinite(delta: Nats, then: Nats, least: float, most: float) -> EffectDecision:
    """Where an effect is infinite: kept if both are, gone or grown if only one is."""
    ours, theirs = bool(np.isinf(delta).any()), bool(np.isinf(then).any())
    number = 1.0 if ours and theirs else math.inf if ours else 0.0
    side: Side = "above" if ours else "below"
    threshold = least if theirs else most
    return EffectDecision(
        side=side,
        measured=number,
        exact=True,
        seen=len(delta),
        threshold=threshold,
        passes="above" if theirs else "below",
    )
