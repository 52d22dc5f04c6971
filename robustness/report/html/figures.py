"""The figures of one checkpoint: pure functions of its facts, in plotly's plain JSON types."""

import math
from collections.abc import Sequence

from robustness.report.html.axes import LogAxis, log_axis
from robustness.report.html.parts import (
    ROW_PX,
    SYMBOLS,
    Figure,
    axis,
    bounded,
    colour,
    interval,
    layout,
    log_scale,
    needed,
    threshold_line,
)
from robustness.report.results import CheckpointResult, CheckResult
from robustness.report.words import number
from robustness.statistics.figures import LayerFigure


def degradations(checkpoint: CheckpointResult) -> tuple[CheckResult, ...]:
    """The checks that measured a degradation."""
    return tuple(check for check in checkpoint.checks if check.row is not None)


def degradation(checkpoint: CheckpointResult) -> Figure | None:
    """Every ablation's and control's degradation against its threshold; None without any."""
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
    """The side of the threshold on which a check passes, and the threshold itself."""
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
    """What every single draw of a random control does."""
    return () if check.details.draws is None else check.details.draws.each


def _draws(checks: Sequence[CheckResult], scale: LogAxis) -> Figure:
    """Every single draw of a random control, spread over its row so that they can be told apart."""
    found = [
        (scale.inside(ratio), row + 0.28 * (2 * (0.618034 * n % 1) - 1), ratio)
        for row, check in enumerate(checks)
        for n, ratio in enumerate(draws_of(check))
    ]
    return {
        "type": "scatter",
        "mode": "markers",
        "name": "draws",
        "x": [x for x, _, _ in found],
        "y": [y for _, y, _ in found],
        "text": [f"one random draw: ×{number(ratio)}" for *_, ratio in found],
        "hovertemplate": "%{text}<extra></extra>",
        "marker": {"size": 4, "color": "@muted", "opacity": 0.45},
    }


def _interval_line(row: int, check: CheckResult, scale: LogAxis) -> Figure:
    """The interval; an end beyond the axis gets an arrow."""
    low, high = check.interval or (float("nan"), float("nan"))
    ends = [] if check.interval is None else [low, high]
    symbols = [
        "line-ns-open" if scale.contains(end) else arrow
        for end, arrow in zip(ends, ("triangle-left", "triangle-right"), strict=False)
    ]
    return {
        "type": "scatter",
        "mode": "lines+markers",
        "name": f"interval {row}",
        "x": [scale.inside(end) for end in ends],
        "y": [row for _ in ends],
        "hoverinfo": "skip",
        "cliponaxis": False,
        "line": {"color": colour(check), "width": 2.5},
        "marker": {
            "symbol": symbols,
            "size": 9,
            "color": colour(check),
            "line": {"color": colour(check), "width": 2},
        },
    }


def _points(checks: Sequence[CheckResult], scale: LogAxis) -> Figure:
    ratios = [math.inf if check.measured is None else check.measured for check in checks]
    inside = [scale.contains(ratio) for ratio in ratios]
    return {
        "type": "scatter",
        "mode": "markers+text",
        "name": "measured",
        "x": [scale.inside(ratio) for ratio in ratios],
        "y": list(range(len(checks))),
        "text": ["" if there else f"{number(r)} " for r, there in zip(ratios, inside, strict=True)],
        "textposition": "top left",
        "textfont": {"size": 16, "color": "@ink"},
        "cliponaxis": False,
        "hovertext": [_described(check) for check in checks],
        "hovertemplate": "%{hovertext}<extra></extra>",
        "marker": {
            "symbol": [
                SYMBOLS.get(check.outcome, "circle-open") if there else "triangle-right"
                for check, there in zip(checks, inside, strict=True)
            ],
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
    """How a decision narrowed over text blocks or examples; None where that was not recorded."""
    entries = [entry for entry in check.history if math.isfinite(entry.measured)]
    if len(entries) < 2 or check.threshold is None:
        return None
    last = next((entry.interval for entry in reversed(entries) if entry.interval is not None), ())
    numbers = [entry.measured for entry in entries]
    logarithmic = check.is_factor and min(numbers) > 0 and check.threshold > 0
    sign = "×" if check.is_factor else ""
    # Early intervals are wide: they run out of a frame that is made for the last one.
    shown = [*bounded(last, [*numbers, check.threshold]), *numbers, check.threshold]
    scale = log_axis(shown, margin=0.3)
    banded = [entry for entry in entries if entry.interval is not None]
    place = scale.inside if logarithmic else float
    ends = [entry.interval for entry in banded if entry.interval is not None]
    seen = [entry.seen for entry in banded]
    y_axis = log_scale("", scale) if logarithmic else axis("")
    return {
        "data": [
            _band_edge(seen, [place(low) for low, _ in ends]),
            {**_band_edge(seen, [place(high) for _, high in ends]), "fill": "tonexty"},
            _last_interval(seen[-1:], [place(end) for pair in ends[-1:] for end in pair], check),
            {
                "type": "scatter",
                "mode": "lines+markers",
                "name": "measured",
                "x": [entry.seen for entry in entries],
                "y": numbers,
                "text": [f"{sign}{number(k.measured)}{interval(k.interval)}" for k in entries],
                "hovertemplate": f"%{{x}} {check.unit}: %{{text}}<extra></extra>",
                "line": {"color": colour(check), "width": 2},
                "marker": {"size": 5, "color": colour(check)},
            },
        ],
        "layout": layout(
            height=190,
            xaxis=axis(check.unit, rangemode="tozero", nticks=5, fixedrange=True),
            yaxis={**y_axis, "fixedrange": True},
            shapes=[threshold_line(check.threshold)],
        ),
    }


def _band_edge(x: Sequence[float], y: Sequence[float]) -> Figure:
    return {
        "type": "scatter",
        "mode": "lines",
        "x": list(x),
        "y": list(y),
        "hoverinfo": "skip",
        "line": {"width": 0, "shape": "hv"},
        "fillcolor": "@interval",
    }


def _last_interval(at: Sequence[int], ends: Sequence[float], check: CheckResult) -> Figure:
    """The interval that a decision rests on; the band has no width where it is the only one."""
    return {
        "type": "scatter",
        "mode": "lines+markers",
        "name": "last interval",
        "x": [*at, *at],
        "y": list(ends),
        "hoverinfo": "skip",
        "line": {"color": colour(check), "width": 1.5},
        "marker": {
            "symbol": "line-ew-open",
            "size": 7,
            "color": colour(check),
            "line": {"color": colour(check), "width": 1.5},
        },
    }


def by_layer(check: CheckResult) -> Figure | None:
    """What the ablation does in one layer at a time; None where that was not measured."""
    profile = check.details.layers
    if not profile:
        return None
    ratios = [layer.ratio for layer in profile]
    ends = [end for layer in profile for end in layer.interval or ()]
    against = [] if check.threshold is None else [check.threshold]
    scale = log_axis([*bounded(ends, [*ratios, *against]), *ratios, *against])
    return {
        "data": [
            {
                "type": "scatter",
                "mode": "markers",
                "name": "measured",
                "x": [layer.layer for layer in profile],
                "y": [scale.inside(ratio) for ratio in ratios],
                "error_y": _error_bars(profile, scale),
                "text": [f"×{number(k.ratio)}{interval(k.interval)}" for k in profile],
                "hovertemplate": "layer %{x}: %{text}<extra></extra>",
                "cliponaxis": False,
                "marker": {
                    "size": 8,
                    "color": "@accent",
                    "symbol": [
                        "circle" if scale.contains(ratio) else "triangle-up" for ratio in ratios
                    ],
                },
            }
        ],
        "layout": layout(
            height=280,
            xaxis=axis(
                "ablated in this layer only",
                dtick=max(1, len(profile) // 12),
                range=[profile[0].layer - 0.6, profile[-1].layer + 0.6],
            ),
            yaxis=log_scale("multiplied by", scale),
            shapes=[threshold_line(value) for value in against],
        ),
    }


def _error_bars(profile: Sequence[LayerFigure], scale: LogAxis) -> Figure:
    def length(layer: LayerFigure, end: int) -> float:
        if layer.interval is None:
            return 0.0
        return abs(scale.inside(layer.interval[end]) - scale.inside(layer.ratio))

    return {
        "type": "data",
        "symmetric": False,
        "array": [length(layer, 1) for layer in profile],
        "arrayminus": [length(layer, 0) for layer in profile],
        "color": "@accent",
        "thickness": 1.5,
        "width": 3,
    }
