"""The heat map of a checkpoint: how far out every dimension lies in every layer.

A screen has about a thousand columns of pixels, and a wide model more dimensions than that. Where
dimensions have to share a column, it shows the one farthest from the mean: what a reader looks for
is never averaged away, and the figure says so.
"""

import math
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass

from robustness.report.html.parts import Figure, axis, layout, lined, looks, scatter
from robustness.report.parts import Matrix, OutlierDimension
from robustness.report.results import CheckpointResult

MOST_COLUMNS = 1024
MOST_CELLS = 60_000
"""Of all heat maps of a page together, for each of scale and bias: about half a megabyte."""
FEWEST_COLUMNS = 128
GAP_PX, BOTTOM_PX = 16, 104
DIGIT_PX = 6.5
"""Height of a character of an upright label."""
_LABEL_WIDTH = 0.035
"""Of the axis, that a label set upright needs on a telephone."""


@dataclass(frozen=True, kw_only=True)
class Column:
    """Dimensions from ``first`` on that share a column."""

    first: int
    width: int

    @property
    def middle(self) -> float:
        """Return where the column is drawn."""
        return self.first + (self.width - 1) / 2

    def among(self, dims: Sequence[int]) -> range:
        """Return where its dimensions lie in an ascending sequence of dimensions."""
        return range(bisect_left(dims, self.first), bisect_left(dims, self.first + self.width))


def columns(n_dims: int, n_layers: int, n_checkpoints: int) -> list[Column]:
    """Return the columns of a heat map, one per dimension where there is room for that."""
    room = MOST_CELLS // (max(1, n_layers) * max(1, n_checkpoints))
    most = min(MOST_COLUMNS, max(FEWEST_COLUMNS, room))
    width = math.ceil(n_dims / most)
    return [Column(first=first, width=width) for first in range(0, n_dims, width)]


def parameters(checkpoint: CheckpointResult) -> list[tuple[str, Matrix, Matrix]]:
    """Return name, values and z-scores of what there is to show: scale, bias, both or none."""
    sites = checkpoint.sites
    if sites is None:
        return []
    kinds = (("scale", sites.scale, sites.scale_z), ("bias", sites.bias, sites.bias_z))
    dims = kept(checkpoint)
    if list(dims) != sorted(set(dims)) or not dims or dims[-1] >= checkpoint.hidden_size:
        return []
    shape = (checkpoint.layers, len(dims))
    return [
        (name, values, z)
        for name, values, z in kinds
        if values is not None and z is not None and _shape(values) == shape == _shape(z)
    ]


def kept(checkpoint: CheckpointResult) -> Sequence[int]:
    """Return the dimensions that the report has values of: of a very wide model only some."""
    sites = checkpoint.sites
    return range(checkpoint.hidden_size) if sites is None or sites.dims is None else sites.dims


def _shape(matrix: Matrix) -> tuple[int, int] | None:
    """Return rows and columns; ``None`` if rows differ in length or there are none."""
    lengths = {len(row) for row in matrix}
    return (len(matrix), lengths.pop()) if len(lengths) == 1 else None


def heat_map(checkpoint: CheckpointResult, n_checkpoints: int = 1) -> Figure | None:
    """Draw layers by dimensions, with the outliers marked; ``None`` if values are unknown."""
    maps = parameters(checkpoint)
    if not maps:
        return None
    n_dims, n_layers = checkpoint.hidden_size, checkpoint.layers
    across = columns(n_dims, n_layers, n_checkpoints)
    height = min(max(7 * n_layers, 110), 260)
    labels = _labels(checkpoint.dims, n_dims)
    top_px = 16 + DIGIT_PX * max((len(label["text"]) for label in labels), default=0)
    traces: list[Figure] = []
    axes: Figure = {}
    gap = GAP_PX / (height * len(maps) + GAP_PX * (len(maps) - 1))
    for place, (name, values, z) in enumerate(maps):
        suffix = "" if place == 0 else str(place + 1)
        traces += [
            _cells(name, values, z, kept(checkpoint), across, suffix),
            _marks(name, values, z, kept(checkpoint), checkpoint.outliers, suffix),
        ]
        axes |= _axes(name, checkpoint, place, len(maps), gap)
    return {
        "data": traces,
        "layout": layout(
            height=height * len(maps) + GAP_PX * (len(maps) - 1) + top_px + BOTTOM_PX,
            dragmode="zoom",
            margin={"l": 8, "r": 16, "t": top_px, "b": BOTTOM_PX},
            coloraxis=looks("z_axis"),
            annotations=labels,
            **axes,
        ),
    }


def _axes(name: str, checkpoint: CheckpointResult, place: int, n_maps: int, gap: float) -> Figure:
    """Return the axes of one map among those that stand above each other."""
    n_dims, n_layers = checkpoint.hidden_size, checkpoint.layers
    suffix, is_last = "" if place == 0 else str(place + 1), place == n_maps - 1
    share = (1 - gap * (n_maps - 1)) / n_maps
    top = 1 - place * (share + gap)
    return {
        f"yaxis{suffix}": axis(
            f"<b>{name}</b>, layer",
            domain=[max(0.0, top - share), top],
            range=[-0.5, n_layers - 0.5],
            showgrid=False,
            fixedrange=True,
            dtick=max(1, 2 * math.ceil(n_layers / 12)) if n_layers > 6 else 1,
        ),
        f"xaxis{suffix}": axis(
            "dimension" if is_last else "",
            anchor=f"y{suffix}",
            range=[-0.5, n_dims - 0.5],
            showgrid=False,
            **({"matches": "x"} if place else {}),
            showticklabels=is_last,
            nticks=9,
        ),
    }


def _cells(
    name: str, values: Matrix, z: Matrix, dims: Sequence[int], across: Sequence[Column], suffix: str
) -> Figure:
    places = [column.among(dims) for column in across]
    thinned = across[0].width > 1
    colours: list[list[float | None]] = []
    hover: list[list[object]] = []
    for row, distances in zip(values, z, strict=True):
        shown = [_farthest(distances, among) for among in places]
        colours.append([None if at is None else _finite(distances[at], ".2f") for at in shown])
        numbers = [None if at is None else _finite(row[at], ".4g") for at in shown]
        pairs = zip(shown, numbers, strict=True)
        hover.append(
            [at if at is None else [dims[at], number] for at, number in pairs]
            if thinned
            else [*numbers]
        )
    dim, value = ("%{customdata[0]}", "%{customdata[1]}") if thinned else ("%{x}", "%{customdata}")
    return {
        "type": "heatmap",
        "name": name,
        "x0": across[0].middle,
        "dx": across[0].width,
        "y0": 0,
        "dy": 1,
        "z": colours,
        "hoverongaps": False,
        "customdata": hover,
        "hovertemplate": f"layer %{{y}}, dimension {dim}<br>z = %{{z:+.2f}}<br>"
        f"{name} = {value}<extra></extra>",
        "coloraxis": "coloraxis",
        "xaxis": f"x{suffix}",
        "yaxis": f"y{suffix}",
    }


def _farthest(z: Sequence[float], among: range) -> int | None:
    """Return the place of the value farthest from 0; what is not a number is skipped."""
    finite = [at for at in among if not math.isnan(z[at])]
    return max(finite, key=lambda at: abs(z[at]), default=None)


def _finite(value: float, digits: str) -> float | None:
    return float(f"{value:{digits}}") if math.isfinite(value) else None


def _marks(
    name: str,
    values: Matrix,
    z: Matrix,
    dims: Sequence[int],
    outliers: Sequence[OutlierDimension],
    suffix: str,
) -> Figure:
    """Draw a frame where the rule flags a dimension, at any width of the screen."""
    places = {dim: at for at, dim in enumerate(dims)}
    marks = [
        (outlier.dim, layer, places[outlier.dim])
        for outlier in outliers
        for layer in outlier.layers
        if layer < len(z) and outlier.dim in places
    ]
    return scatter(
        f"outliers, {name}",
        [dim for dim, *_ in marks],
        [layer for _, layer, _ in marks],
        [
            f"<b>outlier</b>: layer {layer}, dimension {dim}<br>z = {z[layer][at]:+.2f}<br>"
            f"{name} = {values[layer][at]:.4g}"
            for dim, layer, at in marks
        ],
        marker=lined("@ink", 1, symbol="square-open", size=7),
        xaxis=f"x{suffix}",
        yaxis=f"y{suffix}",
    )


def _labels(dims: Sequence[int], n_dims: int) -> list[Figure]:
    """Return the outlier dimensions as upright labels above the map; neighbours share one."""
    groups: list[list[int]] = []
    for dim in dims:
        if groups and dim - groups[-1][0] < _LABEL_WIDTH * n_dims:
            groups[-1].append(dim)
        else:
            groups.append([dim])
    return [
        {
            **looks("dimension_label"),
            "text": (", " if len(group) < 3 else " … ").join(
                map(str, dict.fromkeys((group[0], group[-1])))
            ),
            "x": sum(group) / len(group),
        }
        for group in groups
    ]
