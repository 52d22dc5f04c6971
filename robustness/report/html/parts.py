"""What the figures of a report have in common, in plotly's plain JSON types.

A colour is a name like ``@pass``: the page fills in what it is in its colour scheme.
"""

import json
import math
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from robustness.report.html.axes import LogAxis
from robustness.report.results import CheckResult
from robustness.report.words import number
from robustness.statistics.figures import Interval

Figure = dict[str, Any]

ROW_PX = 34
SYMBOLS = {"pass": "circle", "fail": "x", "inconclusive": "diamond-open", "error": "cross"}
COLOURS = {"pass": "@pass", "fail": "@fail", "inconclusive": "@open", "error": "@fail"}


@cache
def looks(of: str) -> Figure:
    """Return what all figures have alike of a part of theirs, as ``looks.json`` says it."""
    file = Path(__file__).parent / "templates" / "looks.json"
    look: Figure = json.loads(file.read_text(encoding="utf-8"))[of]
    return look


def layout(**own: Any) -> Figure:
    """Return what all figures have in common; ``own`` is added."""
    return {**looks("layout"), **own}


def axis(title: str = "", **own: Any) -> Figure:
    """Return a quiet axis; ``own`` is added."""
    look = looks("axis")
    return {**look, "title": {**look["title"], "text": title}, **own}


def log_scale(title: str, scale: LogAxis, **own: Any) -> Figure:
    """Return an axis of ratios; ``own`` is added."""
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


def scatter(
    name: str | None,
    x: Iterable[float | None],
    y: Iterable[float | None],
    text: Iterable[str] | None = None,
    **own: Any,
) -> Figure:
    """Return points, which show their text where the mouse is, or nothing; ``own`` is added."""
    hover: Figure = {"hoverinfo": "skip"}
    if text is not None:
        hover = {"text": list(text), "hovertemplate": "%{text}<extra></extra>"}
    named = {} if name is None else {"name": name}
    return {"type": "scatter", "mode": "markers", **named, "x": list(x), "y": list(y)} | hover | own


def lined(colour: str, width: float, **own: Any) -> Figure:
    """Return what a mark of a colour with a line around it has in common with others."""
    return {"color": colour, "line": {"color": colour, "width": width}, **own}


def line_across(at: float, colour: str = "@threshold", **line: Any) -> Figure:
    """Return a line across the whole figure at a height."""
    ends = {"x0": 0, "x1": 1, "y0": at, "y1": at}
    return {"type": "line", "xref": "paper", **ends, "line": {"color": colour, **line}}


def threshold_line(threshold: float) -> Figure:
    """Return a line across the figure at what is needed."""
    return {**line_across(threshold, width=1.5, dash="dash"), "yref": "y"}


def error_bars(
    values: Sequence[float],
    intervals: Sequence[Interval | None],
    scale: LogAxis,
    colour: str,
    thickness: float,
) -> Figure:
    """Return upright intervals around values, cut where the axis ends."""

    def lengths(end: int) -> list[float]:
        return [
            0.0 if interval is None else abs(scale.inside(interval[end]) - scale.inside(value))
            for value, interval in zip(values, intervals, strict=True)
        ]

    bars = {"type": "data", "symmetric": False, "array": lengths(1), "arrayminus": lengths(0)}
    return {**bars, "color": colour, "thickness": thickness, "width": 3}


def bounded(ends: Sequence[float], ratios: Sequence[float]) -> list[float]:
    """Cut ends of intervals three decades beyond what was measured: axes stay readable."""
    held = [ratio for ratio in ratios if math.isfinite(ratio) and ratio > 0]
    low, high = min(held, default=1.0) / 1e3, max(held, default=1.0) * 1e3
    return [min(max(end, low), high) for end in ends if math.isfinite(end)]


def colour(check: CheckResult) -> str:
    """Return the colour of what a check came to."""
    return COLOURS.get(check.outcome, "@muted")


def needed(check: CheckResult) -> str:
    """Return ``≥ 1.05``, ``< 1.1``, or nothing."""
    if check.threshold is None:
        return ""
    sign = {"below": "< ", "above": "≥ "}.get(check.passes or "", "")
    return f"{sign}{number(check.threshold)}"


def interval(ends: Interval | None, exact: bool = False) -> str:
    """Return `` (1.1 to 1.3)`` as it stands behind a number."""
    if ends is None:
        return ", exact on this corpus" if exact else ""
    return f" ({number(ends[0])} to {number(ends[1])})"
