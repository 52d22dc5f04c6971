"""What the figures of a report have in common, in plotly's plain JSON types.

A colour is a name like ``@pass``: the page fills in what it is in its colour scheme.
"""

import math
from collections.abc import Sequence
from typing import Any

from robustness.report.html.axes import LogAxis
from robustness.report.results import CheckResult
from robustness.report.words import number
from robustness.statistics.figures import Interval

Figure = dict[str, Any]

ROW_PX = 34
SYMBOLS = {"pass": "circle", "fail": "x", "inconclusive": "diamond-open", "error": "cross"}
COLOURS = {"pass": "@pass", "fail": "@fail", "inconclusive": "@open", "error": "@fail"}


def layout(**own: Any) -> Figure:
    """What all figures have in common; ``own`` is added."""
    return {
        "font": {"family": "@font", "size": 12, "color": "@ink"},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "showlegend": False,
        "hovermode": "closest",
        "dragmode": False,
        "margin": {"l": 8, "r": 16, "t": 12, "b": 8},
        "hoverlabel": {
            "bgcolor": "@card",
            "bordercolor": "@edge",
            "align": "left",
            "font": {"family": "@font", "size": 13, "color": "@ink"},
        },
        **own,
    }


def axis(title: str = "", **own: Any) -> Figure:
    """A quiet axis."""
    return {
        "title": {"text": title, "font": {"size": 12, "color": "@muted"}, "standoff": 8},
        "automargin": True,
        "gridcolor": "@grid",
        "linecolor": "@edge",
        "tickcolor": "@edge",
        "tickfont": {"color": "@muted"},
        "zeroline": False,
        **own,
    }


def log_scale(title: str, scale: LogAxis, **own: Any) -> Figure:
    """An axis of ratios."""
    ticks = scale.ticks
    return axis(
        title,
        type="log",
        range=scale.range,
        tickvals=ticks,
        ticktext=scale.labels(ticks),
        minor={"showgrid": False},
        **own,
    )


def threshold_line(threshold: float) -> Figure:
    """Across the figure, at what is needed."""
    return {
        "type": "line",
        "xref": "paper",
        "yref": "y",
        "x0": 0,
        "x1": 1,
        "y0": threshold,
        "y1": threshold,
        "line": {"color": "@threshold", "width": 1.5, "dash": "dash"},
    }


def bounded(ends: Sequence[float], ratios: Sequence[float]) -> list[float]:
    """Ends of intervals that a readable axis can hold: three decades beyond what was measured."""
    held = [ratio for ratio in ratios if math.isfinite(ratio) and ratio > 0]
    low, high = min(held, default=1.0) / 1e3, max(held, default=1.0) * 1e3
    return [min(max(end, low), high) for end in ends if math.isfinite(end)]


def colour(check: CheckResult) -> str:
    """The colour of what a check came to."""
    return COLOURS.get(check.outcome, "@muted")


def needed(check: CheckResult) -> str:
    """``≥ 1.05``, ``< 1.1``, or nothing."""
    if check.threshold is None:
        return ""
    sign = {"below": "< ", "above": "≥ "}.get(check.passes or "", "")
    return f"{sign}{number(check.threshold)}"


def interval(ends: Interval | None, exact: bool = False) -> str:
    """`` (1.1 to 1.3)``."""
    if ends is None:
        return ", exact on this corpus" if exact else ""
    return f" ({number(ends[0])} to {number(ends[1])})"
