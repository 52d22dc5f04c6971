"""Several checkpoints side by side, as one figure."""

from html import escape

from robustness.checks.check import Role
from robustness.report.html.axes import log_axis
from robustness.report.html.parts import ROW_PX, Figure, axis, layout, log_scale
from robustness.report.results import Report
from robustness.report.words import number

ROLES: tuple[tuple[Role, str, str], ...] = (
    ("joint", "outlier dimensions", "circle"),
    ("control", "random dimensions", "circle-open"),
)
"""What is drawn of every checkpoint: the part of the check, a name, and a symbol."""


def overview(report: Report) -> Figure | None:
    """Checkpoints side by side: what all outlier dimensions do, and what random ones do."""
    found = {
        role: [
            (row, check.measured)
            for row, checkpoint in enumerate(report.checkpoints)
            for check in checkpoint.of(role)
            if check.measured is not None
        ]
        for role, *_ in ROLES
    }
    ratios = [ratio for points in found.values() for _, ratio in points]
    if len(report.checkpoints) < 2 or not ratios:
        return None
    scale = log_axis(ratios)
    traces = []
    for role, name, symbol in ROLES:
        points = found[role]
        traces.append(
            {
                "type": "scatter",
                "mode": "markers",
                "name": name,
                # A first point that is nowhere: the legend shows the symbol of the first one.
                "x": [None, *(scale.inside(ratio) for *_, ratio in points)],
                "y": [None, *(row for row, *_ in points)],
                "text": ["", *(f"{name}: ×{number(ratio)}" for *_, ratio in points)],
                "hovertemplate": "%{text}<extra></extra>",
                "cliponaxis": False,
                "marker": {
                    "size": 12,
                    "color": "@accent",
                    "line": {"width": 2, "color": "@accent"},
                    "symbol": [
                        symbol,
                        *(symbol if scale.contains(r) else "triangle-right" for *_, r in points),
                    ],
                },
            }
        )
    labels = [_short(checkpoint.label) for checkpoint in report.checkpoints]
    return {
        "data": traces,
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


def _short(label: str, limit: int = 26) -> str:
    cut = label if len(label) <= limit else f"{label[: limit // 2]}…{label[1 - limit // 2 :]}"
    return escape("".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in cut))
