"""What several rules need: chance, thresholds on layers, and an order by magnitude."""

import math
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from robustness.errors import NotFinite


def layers_needed(share: float, n_layers: int) -> int:
    """The number of layers that is at least a share of all, at least 1."""
    return max(1, math.ceil(share * n_layers - 1e-9))


def independent(needed: int, n_layers: int, n_distinct: int | None) -> tuple[int, int]:
    """How many of how many different modules must stand out where layers share theirs.

    Layers that share a module (ALBERT) stand out together: by chance they count once. Without
    ``n_distinct`` all modules are different.
    """
    if n_distinct is None:
        return needed, n_layers
    return math.ceil(needed * n_distinct / n_layers - 1e-9), n_distinct


def tail_share(k: float) -> float:
    """Share of a Gaussian's values more than ``k`` standard deviations from its mean, two-sided."""
    return math.erfc(k / math.sqrt(2))


def at_least(hits: int, trials: int, p: float) -> float:
    """Probability of at least ``hits`` successes in independent trials of probability ``p``."""
    if p <= 0 or p >= 1:
        return float(hits <= (trials if p >= 1 else 0))
    logs = (
        math.lgamma(trials + 1)
        - math.lgamma(n + 1)
        - math.lgamma(trials - n + 1)
        + n * math.log(p)
        + (trials - n) * math.log1p(-p)
        for n in range(max(hits, 0), trials + 1)
    )
    return min(1.0, math.fsum(map(math.exp, logs)))


def any_of(trials: int, p: float) -> float:
    """Probability of at least one success in independent trials of probability ``p``."""
    return 1.0 if p >= 1 else -math.expm1(trials * math.log1p(-p))


def most_extreme(n: int) -> float:
    """The furthest that one of ``n`` values can lie from their mean, in unbiased std: (n-1)/√n."""
    return (n - 1) / math.sqrt(n)


def require_finite(rule: str, what: str, values: NDArray[np.float64]) -> None:
    """Refuse values that no rule can compare, naming the first that is NaN or infinite."""
    if not np.isfinite(values).all():
        layer, dim = np.argwhere(~np.isfinite(values))[0].tolist()
        raise NotFinite(
            f"the {what} of dimension {dim} in layer {layer} is not a finite number, so rule "
            f"{rule} cannot compare dimensions: the file is damaged, or training diverged; "
            "save or download this checkpoint again, or vet an earlier one"
        )


def by_magnitude(extreme: NDArray[np.float64], *, exclude: Iterable[int]) -> tuple[int, ...]:
    """Dimensions in descending order of a value, shape (D,), without those that are outliers."""
    outliers = set(exclude)
    order = np.argsort(-extreme, kind="stable").tolist()
    return tuple(dim for dim in order if dim not in outliers)
