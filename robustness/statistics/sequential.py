"""The mathematics of deciding early: a confidence sequence on a mean, a sign test on a median.

Both may be looked at after every text block, as often as one likes, and stopped at any look: their
error probabilities hold for all looks together. Everything here is a pure function of arrays;
leading axes are independent experiments, which is how the error rates are checked by simulation.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]

_MOST_VALUES = 1e9
_UNBOUNDED = 750.0  # exp of a larger number overflows, exp of a smaller negative one is 0


@dataclass(frozen=True, kw_only=True, eq=False)
class Summary:
    """What the confidence sequence needs to know of a sample; all arrays broadcast together.

    ``std`` is the square root of the unbiased variance, infinite for a single value.
    """

    n: Floats
    mean: Floats
    std: Floats
    minimum: Floats
    maximum: Floats


def summarise(values: ArrayLike, looks: ArrayLike | None = None) -> Summary:
    """Summaries of the first values of a sample, at each of several looks.

    Args:
        values: shape (..., n); the last axis is the order in which the values were seen.
        looks: ascending sample sizes, shape (looks,); by default one, the whole sample.

    Returns:
        Summaries whose arrays have shape (..., looks), or (...) without ``looks``.
    """
    values = np.asarray(values, dtype=np.float64)
    sizes = np.asarray([values.shape[-1]] if looks is None else looks)
    starts = np.concatenate([[0], sizes[:-1]])
    values = values[..., : sizes[-1]]
    # Squares are taken around a value of the sample: equal values then have a variance of exactly
    # 0, and a distant first value enlarges the variance as much as the rounding.
    shift = values[..., :1]
    deviations = values - shift
    total = np.add.reduceat(deviations, starts, axis=-1).cumsum(axis=-1)
    squares = np.add.reduceat(deviations**2, starts, axis=-1).cumsum(axis=-1)
    n = sizes.astype(np.float64)
    variance = np.maximum(squares - total**2 / n, 0.0) / np.maximum(n - 1, 1)
    arrays = {
        "n": n,
        "mean": shift + total / n,
        "std": np.where(n > 1, np.sqrt(variance), np.inf),
        "minimum": np.minimum.accumulate(np.minimum.reduceat(values, starts, axis=-1), axis=-1),
        "maximum": np.maximum.accumulate(np.maximum.reduceat(values, starts, axis=-1), axis=-1),
    }
    return Summary(**(arrays if looks is not None else {k: a[..., 0] for k, a in arrays.items()}))


def mean_bounds(sample: Summary, alpha: float) -> tuple[Floats, Floats]:
    r"""Lower and upper bound of the population's mean, valid at all sample sizes together.

    With :math:`\rho^2 = (-2\ln\alpha + \ln(-2\ln\alpha) + 1) / 64`, which makes the sequence
    tightest at 64 values, its half-width is

    .. math:: s \sqrt{\frac{2 (n\rho^2 + 1)}{n^2\rho^2} \ln\frac{\sqrt{n\rho^2 + 1}}{\alpha}}

    (Waudby-Smith, Arbour, Sinha, Kennedy, Ramdas: Time-uniform central limit theory and asymptotic
    confidence sequences, Annals of Statistics 2024). It is asymptotic, and a small sample of a
    heavy-tailed population has not seen the tail, so each side is moved outwards by a tail guard:
    the distance of the most extreme value on that side from the mean, times
    :math:`\ln(1/\alpha)/n`, the largest share of the population that a sample of n values can have
    missed with probability :math:`\alpha`.

    The error probability ``alpha`` lies in (0, 0.5].
    """
    check_alpha(alpha)
    n = sample.n
    rho2 = (-2 * np.log(alpha) + np.log(-2 * np.log(alpha)) + 1) / 64
    scale = 2 * (n * rho2 + 1) / (n**2 * rho2) * np.log(np.sqrt(n * rho2 + 1) / alpha)
    width = sample.std * np.sqrt(scale)
    guard = _missed_share(n, alpha)
    lower = sample.mean - width - guard * (sample.mean - sample.minimum)
    upper = sample.mean + width + guard * (sample.maximum - sample.mean)
    return lower, upper


def mean_side(sample: Summary, alpha: float, *, slack: float = 0.0) -> NDArray[np.int8]:
    """Where the population's mean lies: 1 above 0, -1 below 0, 0 undecided.

    The decision of every verdict about a mean, which may be off systematically by ``slack``.
    """
    lower, upper = mean_bounds(sample, alpha)
    return (lower > slack).astype(np.int8) - (upper < -slack).astype(np.int8)


def values_to_decide(sample: Summary, alpha: float, *, optimism: float = 0.0) -> float:
    """About how many values :func:`mean_side` would need if they went on as they began.

    Infinity where 10⁹ do not suffice. The mean is taken to lie farther from 0 than it was seen to
    lie by ``optimism`` standard errors, on either side.
    """
    n = float(sample.n) * np.geomspace(1, max(1.0, _MOST_VALUES / float(sample.n)), 400)
    fewest = math.inf
    error = float(sample.std / np.sqrt(sample.n))
    for mean in (sample.mean - optimism * error, sample.mean + optimism * error):
        supposed = replace(sample, n=n, mean=np.full_like(n, mean))
        decided = np.flatnonzero(mean_side(supposed, alpha))
        if len(decided):
            fewest = min(fewest, float(n[decided[0]]))
    return fewest


def ratio_side(
    delta_nll: ArrayLike,
    tokens: ArrayLike,
    *,
    log_threshold: float,
    alpha: float,
    looks: ArrayLike | None = None,
    slack: float = 0.0,
) -> NDArray[np.int8]:
    """Where ΣΔNLL/Σtokens of the population lies: 1 above the threshold, -1 below, 0 undecided.

    The mean of r = ΔNLL - log_threshold * tokens is compared with 0. Where token counts differ so
    much that not even their mean is certainly positive, a ratio is not decided at all: the rule for
    r alone could then lie above a threshold without lying above every smaller one (as in Fieller's
    theorem, the thresholds not excluded would be no interval).

    Args:
        delta_nll: per text block in nats, shape (..., n).
        tokens: scored tokens per text block, same shape.
        log_threshold: the threshold's natural logarithm.
        alpha: error probability.
        looks: sample sizes to look at, as for :func:`summarise`.
        slack: possible systematic error of ΔNLL in nats per text block.
    """
    delta = np.asarray(delta_nll, dtype=np.float64)
    counts = np.asarray(tokens, dtype=np.float64)
    side = mean_side(summarise(delta - log_threshold * counts, looks), alpha, slack=slack)
    certainly_positive = mean_side(summarise(counts, looks), alpha) > 0
    return np.where(certainly_positive, side, np.int8(0))


def ratio_interval(
    delta_nll: ArrayLike, tokens: ArrayLike, *, alpha: float, slack: float = 0.0
) -> tuple[float, float]:
    """Logarithms of the thresholds at which :func:`ratio_side` is undecided.

    Found by solving for the threshold with the same formula, so that an interval and a decision
    cannot disagree. The lower bound of mean r is concave in the threshold's logarithm and the upper
    one convex, so each crosses 0 once on its side of the estimate.
    """
    delta = np.asarray(delta_nll, dtype=np.float64)
    counts = np.asarray(tokens, dtype=np.float64)
    if mean_side(summarise(counts), alpha) <= 0:
        return -math.inf, math.inf
    estimate = float(delta.sum() / counts.sum())

    def side(log_threshold: float) -> int:
        return int(mean_side(summarise(delta - log_threshold * counts), alpha, slack=slack))

    lower, upper = mean_bounds(summarise(delta - estimate * counts), alpha)
    step = (float(upper - lower) + slack) / float(counts.mean())
    return _edge(side, estimate, -step), _edge(side, estimate, step)


def _edge(side: Callable[[float], int], inside: float, step: float) -> float:
    """The last undecided threshold in the direction of ``step``, by bisection."""
    excluded = 1 if step < 0 else -1
    outside = inside + step
    while side(outside) != excluded:
        if outside == inside:  # nothing varies: the estimate is the only undecided threshold
            return inside
        if abs(outside) > _UNBOUNDED:
            return math.copysign(math.inf, step)
        inside, step = outside, 2 * step
        outside = inside + step
    while abs(outside - inside) > 1e-12 * max(1.0, abs(inside)):
        middle = (inside + outside) / 2
        if side(middle) == excluded:
            outside = middle
        else:
            inside = middle
    return inside


def sign_log_e_values(n: int) -> Floats:
    r"""Logarithms of the sign test's e-values after ``n`` draws, shape (n + 1,).

    Entry k is the evidence against "at least half of the population lies on this side" when k of
    the n draws do. It is the likelihood ratio against p = 1/2, averaged over p uniform on
    [0, 1/2) (Robbins' method of mixtures; Ramdas, Grünwald, Vovk, Shafer: Game-theoretic statistics
    and safe anytime-valid inference, Statistical Science 2023):

    .. math:: e_k = 2^{n+1} \int_0^{1/2} p^k (1-p)^{n-k} dp
                  = \frac{\sum_{j=k+1}^{n+1} \binom{n+1}{j}}{(n+1) \binom{n}{k}}

    for each p of the mixture the likelihood ratio is a supermartingale whatever the true p >= 1/2,
    so the e-values of all n together exceed 1/alpha with probability at most alpha (Ville), exactly
    and not asymptotically. The second form is the incomplete beta function at 1/2 as a binomial
    tail; it is computed in logarithms, as both parts overflow from n = 1030 on.
    """
    log_factorial = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, n + 2)))])  # 0! … (n+1)!
    j = np.arange(n + 2)
    log_binomial = log_factorial[n + 1] - log_factorial[j] - log_factorial[n + 1 - j]
    tail = np.logaddexp.accumulate(log_binomial[::-1])[::-1]  # over j … n + 1
    k = np.arange(n + 1)
    log_fewer = log_factorial[n] - log_factorial[k] - log_factorial[n - k]
    result: Floats = tail[1:] - np.log(n + 1) - log_fewer
    return result


def sign_limit(n: int, alpha: float) -> int:
    """How many of ``n`` draws may lie on a side that certainly holds less than half of them.

    The largest k whose e-value reaches 1/alpha, or -1 if none does.
    """
    check_alpha(alpha)
    return int((sign_log_e_values(n) >= -math.log(alpha)).sum()) - 1  # e-values fall with k


def median_side(
    values: ArrayLike, *, alpha: float, looks: Sequence[int] | None = None
) -> NDArray[np.int8]:
    """Where the population's median lies: 1 above 0, -1 below 0, 0 undecided.

    A value of exactly 0 counts against either decision. Of values in the order in which they were
    drawn, shape (..., n), infinite ones allowed, at sample sizes as for :func:`summarise`. The
    error probability in each direction is exact for any population.
    """
    values = np.asarray(values)
    sizes = [values.shape[-1]] if looks is None else list(looks)
    limits = np.array([sign_limit(n, alpha) for n in sizes])
    last = np.array(sizes) - 1
    against_below = np.cumsum(values >= 0, axis=-1)[..., last]
    against_above = np.cumsum(values <= 0, axis=-1)[..., last]
    below = (against_below <= limits).astype(np.int8)
    side = (against_above <= limits).astype(np.int8) - below
    return side if looks is not None else side[..., 0]


def median_interval(values: ArrayLike, *, alpha: float) -> tuple[float, float]:
    """The medians that :func:`median_side` does not exclude: two order statistics, or infinity.

    Each end errs with probability at most ``alpha``.
    """
    ordered = np.sort(np.asarray(values, dtype=np.float64))
    limit = sign_limit(len(ordered), alpha)
    if limit < 0:
        return -math.inf, math.inf
    return float(ordered[limit]), float(ordered[-1 - limit])


def blind_share(n: int, alpha: float) -> float:
    """Largest share of the population that ``n`` text blocks may all have missed: ln(1/alpha)/n.

    A *below* verdict says nothing of effects in fewer of the text blocks than that.
    """
    return float(min(1.0, _missed_share(np.float64(n), alpha)))


def _missed_share(n: Floats | np.float64, alpha: float) -> Any:
    return -math.log(alpha) / n


def alpha_for(confidence: float, comparisons: int) -> float:
    """Error probability of one verdict, so that all are right together (Bonferroni).

    ``comparisons`` are the statistical ones in the full plan of the run.
    """
    if not 0.5 <= confidence < 1:
        raise ValueError(f"confidence must be at least 0.5 and below 1, not {confidence!r}")
    if comparisons < 0:
        raise ValueError(f"there cannot be {comparisons} comparisons")
    return (1 - confidence) / max(1, comparisons)


def check_alpha(alpha: float) -> None:
    """Refuse an error probability that the formulas do not cover."""
    if not 0 < alpha <= 0.5:
        raise ValueError(f"the error probability must be above 0 and at most 0.5, not {alpha!r}")
