"""Several checkpoints side by side, as one figure."""

from collections.abc import Sequence
from html import escape

from robustness.checks.check import Role
from robustness.report.html.axes import LogAxis, log_axis
from robustness.report.html.parts import ROW_PX, Figure, axis, layout, lined, log_scale, scatter
from robustness.report.results import Report
from robustness.report.words import number

ROLES: tuple[tuple[Role, str, str], ...] = (
    ("joint", "outlier dimensions", "circle"),
    ("control", "random dimensions", "circle-open"),
)
"""What is drawn of every checkpoint: the part of the check, a name, and a symbol."""


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
        "data": [_points(name, symbol, figures[role], scale) for role, name, symbol in ROLES],
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


def _points(name: str, symbol: str, points: Sequence[tuple[int, float]], scale: LogAxis) -> Figure:
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
