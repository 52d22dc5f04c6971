"""The figures of a run and its checkpoints: pure functions, in plotly's plain JSON types."""

import math
from collections.abc import Sequence
from html import escape

from robustness.checks.check import Role
from robustness.report.html.axes import LogAxis, log_axis
from robustness.report.html.parts import (
    ROW_PX,
    SYMBOLS,
    Figure,
    axis,
    bounded,
    colour,
    error_bars,
    interval,
    layout,
    lined,
    log_scale,
    needed,
    scatter,
    threshold_line,
)
from robustness.report.results import CheckpointResult, CheckResult, Report
from robustness.report.words import number

ROLES: tuple[tuple[Role, str, str], ...] = (
    ("joint", "outlier dimensions", "circle"),
    ("control", "random dimensions", "circle-open"),
)
"""What is drawn of every checkpoint: the part of the check, a name, and a symbol."""


def degradations(checkpoint: CheckpointResult) -> tuple[CheckResult, ...]:
    """Return the checks that measured a degradation."""
    return tuple(check for check in checkpoint.checks if check.row is not None)


def degradation(checkpoint: CheckpointResult) -> Figure | None:
    """Draw every degradation against its threshold; ``None`` if none was measured."""
    checks = degradations(checkpoint)
    if not checks:
        return None
    drawn = [ratio for check in checks for ratio in draws_of(check)]
    ends = [v for check in checks for v in check.interval or ()]
    ratios = [v for check in checks for v in (check.measured, check.threshold) if v is not None]
    scale = log_axis([*bounded(ends, ratios), *ratios, *drawn])
    rows = range(len(checks))
    return {
        "data": [
            _draws(checks, scale),
            *(_interval_line(row, check, scale) for row, check in enumerate(checks)),
            _points(checks, scale),
        ],
        "layout": layout(
            height=ROW_PX * len(checks) + 86,
            xaxis=log_scale(
                f"{checkpoint.quantity} multiplied by", scale, showline=True, tickangle=0
            ),
            yaxis=axis(
                tickvals=list(rows),
                ticktext=[check.row for check in checks],
                range=[len(checks) - 0.5, -0.5],
                showgrid=False,
                tickfont={"color": "@ink", "size": 13},
                fixedrange=True,
            ),
            shapes=[shape for row in rows for shape in _needed(row, checks[row], scale)],
        ),
    }


def _needed(row: int, check: CheckResult, scale: LogAxis) -> list[Figure]:
    """Draw the side of the threshold on which a check passes, and the threshold itself."""
    if check.threshold is None:
        return []
    far = scale.high if check.passes == "above" else scale.low
    common = {"xref": "x", "yref": "y", "layer": "below"}
    at = scale.inside(check.threshold)
    band = {"type": "rect", "x0": at, "x1": far, "y0": row - 0.36, "y1": row + 0.36}
    line = {"type": "line", "x0": at, "x1": at, "y0": row - 0.36, "y1": row + 0.36}
    return [
        {**common, **band, "fillcolor": "@band", "line": {"width": 0}},
        {**common, **line, "line": {"color": "@threshold", "width": 2}},
    ]


def draws_of(check: CheckResult) -> tuple[float, ...]:
    """Return what every single draw of a random control does."""
    return () if check.details.draws is None else check.details.draws.by_draw


def _draws(checks: Sequence[CheckResult], scale: LogAxis) -> Figure:
    """Return every draw of a random control, spread over its row so that they are told apart."""
    draws = [
        (scale.inside(ratio), row + 0.28 * (2 * (0.618034 * n % 1) - 1), ratio)
        for row, check in enumerate(checks)
        for n, ratio in enumerate(draws_of(check))
    ]
    return scatter(
        "draws",
        [x for x, _, _ in draws],
        [y for _, y, _ in draws],
        [f"one random draw: ×{number(ratio)}" for *_, ratio in draws],
        marker={"size": 4, "color": "@muted", "opacity": 0.45},
    )


def _interval_line(row: int, check: CheckResult, scale: LogAxis) -> Figure:
    """Return the interval; an end beyond the axis gets an arrow."""
    ends = check.interval or ()
    symbols = [
        "line-ns-open" if scale.contains(end) else arrow
        for end, arrow in zip(ends, ("triangle-left", "triangle-right"), strict=False)
    ]
    return scatter(
        f"interval {row}",
        map(scale.inside, ends),
        [row for _ in ends],
        mode="lines+markers",
        cliponaxis=False,
        line={"color": colour(check), "width": 2.5},
        marker=lined(colour(check), 2, symbol=symbols, size=9),
    )


def _points(checks: Sequence[CheckResult], scale: LogAxis) -> Figure:
    ratios = [math.inf if check.measured is None else check.measured for check in checks]
    inside = [scale.contains(ratio) for ratio in ratios]
    symbols = [
        SYMBOLS.get(check.outcome, "circle-open") if there else "triangle-right"
        for check, there in zip(checks, inside, strict=True)
    ]
    return {
        **scatter("measured", map(scale.inside, ratios), range(len(checks)), ()),
        "mode": "markers+text",
        "text": ["" if there else f"{number(r)} " for r, there in zip(ratios, inside, strict=True)],
        "textposition": "top left",
        "textfont": {"size": 16, "color": "@ink"},
        "cliponaxis": False,
        "hovertext": [_described(check) for check in checks],
        "hovertemplate": "%{hovertext}<extra></extra>",
        "marker": {
            "symbol": symbols,
            "size": 13,
            "color": [colour(check) for check in checks],
            "line": {"color": "@card", "width": 1.5},
        },
    }


def _described(check: CheckResult) -> str:
    lines = [
        f"<b>{check.row}</b>",
        f"×{number(check.measured)}{interval(check.interval, check.exact)}",
        f"needed: {needed(check)}",
        f"{check.outcome}, {check.seen} {check.unit}",
    ]
    if (draws := check.details.draws) is not None:
        lines[1] = f"median of {draws.draws} draws {lines[1]}"
    return "<br>".join(lines)


def history(check: CheckResult) -> Figure | None:
    """Draw how a decision narrowed; ``None`` if that was not recorded."""
    entries = [entry for entry in check.history if math.isfinite(entry.measured)]
    if len(entries) < 2 or check.threshold is None:
        return None
    last = next((entry.interval for entry in reversed(entries) if entry.interval is not None), ())
    numbers = [entry.measured for entry in entries]
    logarithmic = check.is_factor and min(numbers) > 0 and check.threshold > 0
    sign = "×" if check.is_factor else ""
    # Early intervals are wide: they run out of a frame that is made for the last one.
    held = [*numbers, check.threshold]
    scale = log_axis([*bounded(last, held), *held], margin=0.3)
    place = scale.inside if logarithmic else float
    banded = [(entry.seen, entry.interval) for entry in entries if entry.interval is not None]
    seen, ends = [n for n, _ in banded], [[place(end) for end in pair] for _, pair in banded]
    measured = scatter(
        "measured",
        [entry.seen for entry in entries],
        numbers,
        [f"{sign}{number(each.measured)}{interval(each.interval)}" for each in entries],
        mode="lines+markers",
        hovertemplate=f"%{{x}} {check.unit}: %{{text}}<extra></extra>",
        line={"color": colour(check), "width": 2},
        marker={"size": 5, "color": colour(check)},
    )
    y_axis = log_scale("", scale) if logarithmic else axis("")
    return {
        "data": [
            _band_edge(seen, [low for low, _ in ends]),
            {**_band_edge(seen, [high for _, high in ends]), "fill": "tonexty"},
            _last_interval(seen[-1:], [end for pair in ends[-1:] for end in pair], check),
            measured,
        ],
        "layout": layout(
            height=190,
            xaxis=axis(check.unit, rangemode="tozero", nticks=5, fixedrange=True),
            yaxis={**y_axis, "fixedrange": True},
            shapes=[threshold_line(check.threshold)],
        ),
    }


def _band_edge(x: Sequence[float], y: Sequence[float]) -> Figure:
    line = {"width": 0, "shape": "hv"}
    return scatter(None, x, y, mode="lines", line=line, fillcolor="@interval")


def _last_interval(at: Sequence[int], ends: Sequence[float], check: CheckResult) -> Figure:
    """Return what a decision rests on; the band has no width where it is the only interval."""
    return scatter(
        "last interval",
        [*at, *at],
        ends,
        mode="lines+markers",
        line={"color": colour(check), "width": 1.5},
        marker=lined(colour(check), 1.5, symbol="line-ew-open", size=7),
    )


def by_layer(check: CheckResult) -> Figure | None:
    """Return what the ablation does in one layer at a time; ``None`` if it was not measured."""
    layers = check.details.layers
    if not layers:
        return None
    ratios, places = [each.ratio for each in layers], [each.layer for each in layers]
    ends = [end for each in layers for end in each.interval or ()]
    against = [] if check.threshold is None else [check.threshold]
    scale = log_axis([*bounded(ends, [*ratios, *against]), *ratios, *against])
    symbols = ["circle" if scale.contains(ratio) else "triangle-up" for ratio in ratios]
    measured = scatter(
        "measured",
        places,
        map(scale.inside, ratios),
        [f"×{number(each.ratio)}{interval(each.interval)}" for each in layers],
        error_y=error_bars(ratios, [each.interval for each in layers], scale, "@accent", 1.5),
        hovertemplate="layer %{x}: %{text}<extra></extra>",
        cliponaxis=False,
        marker={"size": 8, "color": "@accent", "symbol": symbols},
    )
    return {
        "data": [measured],
        "layout": layout(
            height=280,
            xaxis=axis(
                "ablated in this layer only",
                dtick=max(1, len(layers) // 12),
                range=[places[0] - 0.6, places[-1] + 0.6],
            ),
            yaxis=log_scale("multiplied by", scale),
            shapes=[threshold_line(value) for value in against],
        ),
    }


def overview(report: Report) -> Figure | None:
    """Draw what all outlier dimensions of each checkpoint do, and what random ones do."""
    figures = {
        role: [
            (row, check.measured)
            for row, checkpoint in enumerate(report.checkpoints)
            for check in checkpoint.of(role)
            if check.measured is not None
        ]
        for role, *_ in ROLES
    }
    ratios = [ratio for points in figures.values() for _, ratio in points]
    if len(report.checkpoints) < 2 or not ratios:
        return None
    scale = log_axis(ratios)
    labels = [_short(checkpoint.label) for checkpoint in report.checkpoints]
    return {
        "data": [
            _overview_points(name, symbol, figures[role], scale) for role, name, symbol in ROLES
        ],
        "layout": layout(
            height=ROW_PX * len(labels) + 120,
            showlegend=True,
            legend={"orientation": "h", "y": 1.0, "yanchor": "bottom", "x": 0},
            xaxis=log_scale("multiplied by", scale, showline=True, tickangle=0),
            yaxis=axis(
                tickvals=list(range(len(labels))),
                ticktext=labels,
                range=[len(labels) - 0.5, -0.5],
                tickfont={"color": "@ink"},
                fixedrange=True,
            ),
        ),
    }


def _overview_points(
    name: str, symbol: str, points: Sequence[tuple[int, float]], scale: LogAxis
) -> Figure:
    """Return a point per row behind a first one that is nowhere, whose symbol the legend shows."""
    inside = [symbol if scale.contains(ratio) else "triangle-right" for _, ratio in points]
    return scatter(
        name,
        [None, *(scale.inside(ratio) for _, ratio in points)],
        [None, *(row for row, _ in points)],
        ["", *(f"{name}: ×{number(ratio)}" for _, ratio in points)],
        cliponaxis=False,
        marker=lined("@accent", 2, size=12, symbol=[symbol, *inside]),
    )


def _short(label: str, limit: int = 26) -> str:
    cut = label if len(label) <= limit else f"{label[: limit // 2]}…{label[1 - limit // 2 :]}"
    return escape("".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in cut))
