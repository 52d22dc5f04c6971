"""What the busters rule sees at a checkpoint's output sites, as numbers that a report can show."""

from collections.abc import Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from numpy.typing import NDArray

from robustness.outliers.rules.weights import z_scores
from robustness.store.documents import PlainRecord

if TYPE_CHECKING:
    from robustness.anatomy.parameters import SiteParameters

MOST_ENTRIES = 200_000
"""Numbers of one matrix at most; a larger one keeps its outlier and most extreme columns."""

VALUE_DIGITS, Z_DIGITS = 5, 4
"""Significant digits that are kept."""

Matrix: TypeAlias = tuple[tuple[float, ...], ...]


@dataclass(frozen=True, kw_only=True)
class SiteValues(PlainRecord):
    """Scale and bias of the features at the output sites; rows are layers.

    Attributes:
        site: what the rows are of: ``output norm``, ``output writer``, ``output site`` where it is
            one in some layers and the other in others, or ``reading norm``.
        dims: the dimensions of the columns, ascending; ``None`` if there is one for each.
        scale, bias: shapes (L, columns), to five significant digits; ``None`` where there is none.
        scale_z, bias_z: distance from the layer's mean over all dimensions in unbiased standard
            deviations, to four significant digits; ``None`` where values are not finite.
    """

    site: str
    dims: tuple[int, ...] | None
    scale: Matrix
    bias: Matrix | None
    scale_z: Matrix | None
    bias_z: Matrix | None


def site_values(
    parameters: "SiteParameters",
    *,
    kinds: Collection[str],
    keep: Collection[int],
    most_entries: int = MOST_ENTRIES,
) -> SiteValues:
    """The parameters and their z-scores, rounded, and without columns where there are too many.

    Columns of the dimensions to ``keep`` stay whatever their number; the most extreme ones, by the
    largest |z| in any one layer, fill up what there is room for.
    """
    scale, bias = parameters.scale, parameters.bias
    scale_z, bias_z = _z_scores(scale), None if bias is None else _z_scores(bias)
    dims = _columns(scale.shape, (scale_z, bias_z), keep, most_entries)
    columns = slice(None) if dims is None else list(dims)

    def shown(values: NDArray[np.float64] | None, digits: int) -> Matrix | None:
        return None if values is None else _rounded(values[:, columns], digits)

    kind = next(iter(kinds)) if len(set(kinds)) == 1 else "site"
    site = "reading norm" if kind == "reader" else f"output {kind}"
    return SiteValues(
        site=site,
        dims=dims,
        scale=_rounded(scale[:, columns], VALUE_DIGITS),
        bias=shown(bias, VALUE_DIGITS),
        scale_z=shown(scale_z, Z_DIGITS),
        bias_z=shown(bias_z, Z_DIGITS),
    )


def _z_scores(values: NDArray[np.float64]) -> NDArray[np.float64] | None:
    return z_scores(values) if np.isfinite(values).all() else None


def _columns(
    shape: tuple[int, ...],
    z: Collection[NDArray[np.float64] | None],
    keep: Collection[int],
    most_entries: int,
) -> tuple[int, ...] | None:
    """The columns that are kept, ascending; ``None`` for all of them."""
    n_layers, hidden_size = shape
    if n_layers * hidden_size <= most_entries:
        return None
    extreme = np.zeros(hidden_size)
    for each in z:
        if each is not None:
            extreme = np.maximum(extreme, np.abs(each).max(axis=0))
    kept = dict.fromkeys(sorted(keep))
    room = max(1, most_entries // n_layers)
    for dim in np.argsort(-extreme, kind="stable").tolist():
        if len(kept) >= room:
            break
        kept[dim] = None
    return tuple(sorted(kept))


def _rounded(values: NDArray[np.float64], digits: int) -> Matrix:
    return tuple(
        tuple(float(f"{value:.{digits - 1}e}") for value in row) for row in values.tolist()
    )
