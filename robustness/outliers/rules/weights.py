"""Sigma rules on the output sites' scales and biases; the model is never loaded for them."""

import math
from collections.abc import Iterable, Iterator
from itertools import chain
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from robustness.errors import RuleError
from robustness.outliers.outliers import Detection, Outlier
from robustness.outliers.rules.common import (
    any_of,
    at_least,
    by_magnitude,
    independent,
    layers_needed,
    most_extreme,
    require_finite,
    tail_share,
)


def z_scores(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Distance from the layer's mean in unbiased std, shape (L, D); 0 where all are equal."""
    values = np.asarray(values, dtype=np.float64)
    deviation = values - values.mean(axis=1, keepdims=True)
    std = values.std(axis=1, ddof=1, keepdims=True)
    # Equal values can leave rounding noise in both deviation and std: their ratio means nothing.
    noise = 1e-12 * np.abs(values).max(axis=1, keepdims=True)
    return np.asarray(np.divide(deviation, std, out=np.zeros_like(deviation), where=std > noise))


def busters(
    scale: NDArray[np.float64],
    bias: NDArray[np.float64] | None,
    *,
    k: float = 3.0,
    min_layer_share: float = 0.5,
    n_distinct: int | None = None,
) -> Detection:
    """The rule of Kovaleva et al. 2021 (arXiv 2105.06990, section 3).

    A dimension is an outlier where ``|x - mean| > k * std`` holds in the same layer for scale and
    bias, shapes (L, D) (two-sided, strict, unbiased standard deviation), in at least
    ``min_layer_share`` of the layers. Where the site has no bias the scale decides alone.
    ``n_distinct``, the different modules among the layers, matters by chance.

    Raises:
        RuleError: if values are not finite, or D is so small that no value can lie ``k`` standard
            deviations out (the largest possible distance is (D - 1) / sqrt(D)).
    """
    n_layers, hidden_size = scale.shape
    _require_possible("busters", "k", k, hidden_size)
    z_scale, z_bias = _all_z_scores("busters", scale, bias)
    flagged = np.abs(z_scale) > k
    if z_bias is not None:
        flagged &= np.abs(z_bias) > k
    needed = layers_needed(min_layer_share, n_layers)
    dims = np.flatnonzero(flagged.sum(axis=0) >= needed).tolist()
    what = "scale" if bias is None else "scale and bias"
    return Detection(
        rule=f"busters: {what} beyond {k:g} std in at least {needed} of {n_layers} layers",
        outliers=tuple(_outlier(dim, flagged, z_scale, z_bias) for dim in dims),
        by_chance=expected_by_chance(
            hidden_size,
            *independent(needed, n_layers, n_distinct)[::-1],
            k,
            n_tests=1 + (bias is not None),
        ),
        magnitude=_by_magnitude(z_scale, z_bias, exclude=dims),
    )


def puccetti(
    scale: NDArray[np.float64],
    bias: NDArray[np.float64] | None,
    *,
    variant: Literal["code", "paper"] = "code",
    n_std: float = 3.0,
    min_layers: int = 4,
    topk: int = 6,
    n_distinct: int | None = None,
) -> Detection:
    """The rule of Puccetti et al. 2022 (arXiv 2205.11380), as coded or as the paper describes it.

    Both test every parameter by itself, ``|x - mean| > n_std * std`` (two-sided, strict, unbiased
    standard deviation; the paper: 3 for BERT, 2 for RoBERTa), and do not ask for scale and bias,
    shapes (L, D), at once.

    ``code`` (``outliersvsfreq/parameter_access.py``): the dimensions flagged in at least
    ``min_layers`` layers (there, ``> 3``), a fixed number whatever the depth, are ranked by the
    number of layers (ties: ascending), for scale and bias separately. The two lists are interleaved
    up to the shorter one's length (scale first), and the first ``topk`` entries are taken,
    duplicates once: nothing is found where either list is empty.

    ``paper``: a dimension's scale, or its bias, is flagged in all layers. The paper goes on to ask
    that the dimension's removal hurts at least 5 times as much as that of a random one; that gate
    is no part of detection here: ``test_outliers_matter_more_than_chance`` decides it.

    Raises:
        RuleError: if values are not finite, or the rule cannot flag anything in a site without
            bias (``code``), with fewer than ``min_layers`` layers (``code``), or with this D.
    """
    n_layers, hidden_size = scale.shape
    _require_possible("puccetti", "n_std", n_std, hidden_size)
    if variant == "code":
        _require_coded_possible(n_layers, min_layers, has_bias=bias is not None)
    z_scale, z_bias = _all_z_scores("puccetti", scale, bias)
    beyond = [np.abs(z) > n_std for z in (z_scale, z_bias) if z is not None]
    needed = min_layers if variant == "code" else n_layers
    ranked = [_ranked(flagged, needed) for flagged in beyond]
    chosen = [*_interleaved(*ranked)][:topk] if variant == "code" else [*chain(*ranked)]
    dims = sorted(set(chosen))
    flagged = np.logical_or.reduce(beyond)
    return Detection(
        rule=_describe_puccetti(variant, n_std, needed, n_layers, topk, has_bias=bias is not None),
        outliers=tuple(_outlier(dim, flagged, z_scale, z_bias) for dim in dims),
        by_chance=_puccetti_by_chance(
            variant, hidden_size, *independent(needed, n_layers, n_distinct), n_std, topk, ranked
        ),
        magnitude=_by_magnitude(z_scale, z_bias, exclude=dims),
    )


def expected_by_chance(
    hidden_size: int, n_layers: int, needed: int, k: float, *, n_tests: int
) -> float:
    """Expected number of flagged dimensions if all parameters were independent Gaussians.

    ``n_tests`` parameters must stand out at once (1: scale; 2: scale and bias).
    """
    return hidden_size * at_least(needed, n_layers, tail_share(k) ** n_tests)


def _describe_puccetti(
    variant: str, n_std: float, needed: int, n_layers: int, topk: int, *, has_bias: bool
) -> str:
    what = "scale or bias" if has_bias else "scale"
    if variant == "paper":
        return f"puccetti: as the paper says, {what} beyond {n_std:g} std in all {n_layers} layers"
    return (
        f"puccetti: as coded, {what} beyond {n_std:g} std in at least {needed} of {n_layers} "
        f"layers, the first {topk} of both ranked lists"
    )


def _puccetti_by_chance(
    variant: str,
    hidden_size: int,
    needed: int,
    n_layers: int,
    n_std: float,
    topk: int,
    ranked: list[list[int]],
) -> float:
    """As coded, dimensions that stand in both lists are counted twice: they are rare by chance."""
    p = at_least(needed, n_layers, tail_share(n_std))
    if variant == "paper":
        return hidden_size * any_of(len(ranked), p)
    # Entry e of the interleaved list exists where both lists have more than e // 2 entries.
    return math.fsum(at_least(entry // 2 + 1, hidden_size, p) ** 2 for entry in range(topk))


def _ranked(flagged: NDArray[np.bool_], needed: int) -> list[int]:
    """Dimensions flagged in at least so many layers, most layers first, ties ascending."""
    counts = flagged.sum(axis=0)
    order = np.argsort(-counts, kind="stable").tolist()
    return [dim for dim in order if counts[dim] >= needed]


def _interleaved(first: list[int], second: list[int]) -> Iterator[int]:
    for pair in zip(first, second, strict=False):
        yield from pair


def _all_z_scores(
    rule: str, scale: NDArray[np.float64], bias: NDArray[np.float64] | None
) -> tuple[NDArray[np.float64], NDArray[np.float64] | None]:
    require_finite(rule, "scale", scale)
    if bias is None:
        return z_scores(scale), None
    require_finite(rule, "bias", bias)
    return z_scores(scale), z_scores(bias)


def _require_possible(rule: str, setting: str, k: float, hidden_size: int) -> None:
    most = most_extreme(hidden_size)
    if most <= k:
        raise RuleError(
            f"rule {rule} cannot flag anything at {setting} = {k:g} with {hidden_size} dimensions: "
            f"no value can lie further out than {most:.2f} standard deviations; set a smaller "
            f"rules.{rule}.{setting}"
        )


def _require_coded_possible(n_layers: int, min_layers: int, *, has_bias: bool) -> None:
    if not has_bias:
        raise RuleError(
            "rule puccetti as coded ranks scales and biases, and this model's output site has no "
            'bias, so it cannot flag anything; set rules.puccetti.variant = "paper", or use busters'
        )
    if n_layers < min_layers:
        raise RuleError(
            f"rule puccetti as coded cannot flag anything in {n_layers} layers: it asks for "
            f'{min_layers}; set a smaller rules.puccetti.min_layers, or variant = "paper"'
        )


def _outlier(
    dim: int,
    flagged: NDArray[np.bool_],
    z_scale: NDArray[np.float64],
    z_bias: NDArray[np.float64] | None,
) -> Outlier:
    layers = np.flatnonzero(flagged[:, dim])
    return Outlier(
        dim=dim,
        layers=tuple(layers.tolist()),
        z_scale=tuple(z_scale[layers, dim].tolist()),
        z_bias=None if z_bias is None else tuple(z_bias[layers, dim].tolist()),
    )


def _by_magnitude(
    z_scale: NDArray[np.float64], z_bias: NDArray[np.float64] | None, *, exclude: Iterable[int]
) -> tuple[int, ...]:
    """Dimensions ordered by their largest |z| of scale or bias in any single layer."""
    extreme = np.abs(z_scale).max(axis=0)
    if z_bias is not None:
        extreme = np.maximum(extreme, np.abs(z_bias).max(axis=0))
    return by_magnitude(extreme, exclude=exclude)
