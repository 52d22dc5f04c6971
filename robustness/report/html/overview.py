"""Several checkpoints side by side, as one figure."""

from html import escape

from robustness.report.html.axes import log_axis, number
from robustness.report.html.parts import ROW_PX, Figure, axis, layout, log_scale
from robustness.report.saved import RunResult


def overview(run: RunResult) -> Figure | None:
    """Checkpoints side by side: what all outlier dimensions do, and what random ones do."""
    tests = ("test_joint_ablation_degrades", "test_random_ablation_is_harmless")
    names = ("outlier dimensions", "random dimensions")
    found = {
        test: [
            (row, check)
            for row, checkpoint in enumerate(run.checkpoints)
            for check in checkpoint.of(test)
            if check.ratio is not None
        ]
        for test in tests
    }
    ratios = [c.ratio for points in found.values() for _, c in points if c.ratio is not None]
    if len(run.checkpoints) < 2 or not ratios:
        return None
    scale = log_axis(ratios)
    traces = []
    for test, name, symbol in zip(tests, names, ("circle", "circle-open"), strict=True):
        points = [(row, check, float(check.ratio or 0)) for row, check in found[test]]
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
    labels = [_short(checkpoint.label) for checkpoint in run.checkpoints]
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
