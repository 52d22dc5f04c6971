"""Rules that find outlier dimensions: pure, deterministic functions of arrays (layers x D)."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robustness.errors import RuleError

RULES = ("busters",)


@dataclass(frozen=True, kw_only=True)
class Outlier:
    """One outlier dimension.

    Attributes:
        dim: its index in the hidden vector.
        layers: the layers (0-based) in which the rule flags it.
        z_scale: its distance from the layer's mean scale in standard deviations, per such layer.
        z_bias: likewise for the bias; ``None`` where the site has no bias.
    """

    dim: int
    layers: tuple[int, ...]
    z_scale: tuple[float, ...]
    z_bias: tuple[float, ...] | None

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return {
            "dim": self.dim,
            "layers": list(self.layers),
            "z_scale": list(self.z_scale),
            "z_bias": None if self.z_bias is None else list(self.z_bias),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "Outlier":
        """The inverse of :meth:`to_dict`."""
        bias = data["z_bias"]
        return cls(
            dim=data["dim"],
            layers=tuple(data["layers"]),
            z_scale=tuple(data["z_scale"]),
            z_bias=None if bias is None else tuple(bias),
        )


@dataclass(frozen=True, kw_only=True)
class Detection:
    """What a rule found in one checkpoint.

    Attributes:
        rule: the rule and its settings, readable.
        outliers: ascending by dimension.
        by_chance: dimensions the rule would flag under independent Gaussian parameters.
        magnitude: all dimensions that are not outliers, the most extreme in any one layer first.
    """

    rule: str
    outliers: tuple[Outlier, ...]
    by_chance: float
    magnitude: tuple[int, ...]

    @property
    def dims(self) -> tuple[int, ...]:
        """The outlier dimensions, ascending."""
        return tuple(outlier.dim for outlier in self.outliers)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return {
            "rule": self.rule,
            "outliers": [outlier.to_dict() for outlier in self.outliers],
            "by_chance": self.by_chance,
            "magnitude": list(self.magnitude),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "Detection":
        """The inverse of :meth:`to_dict`."""
        return cls(
            rule=data["rule"],
            outliers=tuple(map(Outlier.from_dict, data["outliers"])),
            by_chance=data["by_chance"],
            magnitude=tuple(data["magnitude"]),
        )


def z_scores(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Distance from the layer's mean in unbiased standard deviations.

    Args:
        values: shape (L, D).

    Returns:
        Shape (L, D); zero where all of a layer's values are equal.
    """
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
) -> Detection:
    """The rule of Kovaleva et al. 2021 (arXiv 2105.06990, section 3).

    A dimension is an outlier where ``|x - mean| > k * std`` holds in the same layer for scale and
    bias (two-sided, strict, unbiased standard deviation), in at least ``min_layer_share`` of the
    layers. Where the site has no bias the scale decides alone.

    Args:
        scale: shape (L, D).
        bias: shape (L, D), or ``None``.
        k: standard deviations.
        min_layer_share: share of layers, in (0, 1].

    Raises:
        RuleError: if values are not finite, or D is so small that no value can lie ``k`` standard
            deviations out (the largest possible distance is (D - 1) / sqrt(D)).
    """
    n_layers, hidden_size = scale.shape
    if (hidden_size - 1) / math.sqrt(hidden_size) <= k:
        raise RuleError(
            f"rule busters cannot flag anything at k = {k:g} with {hidden_size} dimensions: no "
            f"value can lie further out than {(hidden_size - 1) / math.sqrt(hidden_size):.2f} "
            "standard deviations; set a smaller rules.busters.k"
        )
    for name, values in (("scale", scale), ("bias", bias)):
        if values is not None and not np.isfinite(values).all():
            layer, dim = np.argwhere(~np.isfinite(values))[0].tolist()
            raise RuleError(
                f"the {name} of dimension {dim} in layer {layer} is not a finite number, so rule "
                "busters cannot compare dimensions: the file is damaged, or training diverged; "
                "save or download this checkpoint again, or vet an earlier one"
            )
    z_scale = z_scores(scale)
    z_bias = None if bias is None else z_scores(bias)
    flagged = np.abs(z_scale) > k
    if z_bias is not None:
        flagged &= np.abs(z_bias) > k
    needed = max(1, math.ceil(min_layer_share * n_layers - 1e-9))
    found = np.flatnonzero(flagged.sum(axis=0) >= needed)
    return Detection(
        rule=_describe(k, needed, n_layers, with_bias=bias is not None),
        outliers=tuple(_outlier(int(dim), flagged, z_scale, z_bias) for dim in found),
        by_chance=_expected_by_chance(
            hidden_size, n_layers, needed, k, n_tests=1 + (bias is not None)
        ),
        magnitude=_by_magnitude(z_scale, z_bias, exclude=found),
    )


def _describe(k: float, needed: int, n_layers: int, *, with_bias: bool) -> str:
    what = "scale and bias" if with_bias else "scale"
    return f"busters: {what} beyond {k:g} std in at least {needed} of {n_layers} layers"


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


def _expected_by_chance(
    hidden_size: int, n_layers: int, needed: int, k: float, *, n_tests: int
) -> float:
    """Expected number of flagged dimensions if all parameters were independent Gaussians."""
    q = math.erfc(k / math.sqrt(2)) ** n_tests
    tail = math.fsum(
        math.comb(n_layers, hits) * q**hits * (1 - q) ** (n_layers - hits)
        for hits in range(needed, n_layers + 1)
    )
    return hidden_size * tail


def _by_magnitude(
    z_scale: NDArray[np.float64],
    z_bias: NDArray[np.float64] | None,
    *,
    exclude: NDArray[np.int64],
) -> tuple[int, ...]:
    """Dimensions ordered by their largest |z| of scale or bias in any single layer."""
    extreme = np.abs(z_scale).max(axis=0)
    if z_bias is not None:
        extreme = np.maximum(extreme, np.abs(z_bias).max(axis=0))
    outliers = set(exclude.tolist())
    order = np.argsort(-extreme, kind="stable").tolist()
    return tuple(dim for dim in order if dim not in outliers)
