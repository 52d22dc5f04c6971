"""What the figures of a report have in common, in plotly's plain JSON types.

A colour is a name like ``@pass``: the page fills in what it is in its colour scheme.
"""

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from robustness.report.results import CheckResult
from robustness.report.words import number, power
from robustness.statistics.figures import Interval

Figure = dict[str, Any]

ROW_PX = 34
FEWEST_TICKS, MOST_TICKS = 4, 7
SYMBOLS = {"pass": "circle", "fail": "x", "inconclusive": "diamond-open", "error": "cross"}
COLOURS = {"pass": "@pass", "fail": "@fail", "inconclusive": "@open", "error": "@fail"}


@cache
def looks(of: str) -> Figure:
    """Return how a part of a figure looks in all figures, from ``looks.json``."""
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


@dataclass(frozen=True, kw_only=True)
class LogAxis:
    """A logarithmic axis from ``low`` to ``high``, both finite and above 0."""

    low: float
    high: float

    def inside(self, value: float) -> float:
        """Return the value, or the edge behind which it lies (0 and infinities, too)."""
        return min(max(value, self.low), self.high)

    def contains(self, value: float) -> bool:
        """Tell whether the value is drawn where it is."""
        return self.low <= value <= self.high

    @property
    def range(self) -> list[float]:
        """Return the ends as plotly has them: as decimal logarithms."""
        return [math.log10(self.low), math.log10(self.high)]

    @property
    def ticks(self) -> list[float]:
        """Return round values between the ends, at least two."""
        first, last = math.ceil(self.range[0] - 1e-9), math.floor(self.range[1] + 1e-9)
        decades = self.range[1] - self.range[0]
        if decades > 3:
            step = math.ceil((last - first + 1) / MOST_TICKS)
            start = first + (-first) % step  # so that 1 is among them
            return [10.0**exponent for exponent in range(start, last + 1, step)]
        for multiples in ((1, 3), (1, 2, 5), (1, 1.5, 2, 3, 5, 7)):
            ticks = [m * 10.0**e for e in range(first - 1, last + 1) for m in multiples]
            inside = [value for value in ticks if self.contains(value)]
            if len(inside) >= FEWEST_TICKS:
                return inside
        return self._even_ticks()

    def _even_ticks(self) -> list[float]:
        span = self.high - self.low
        scale = 10.0 ** math.floor(math.log10(span))
        step = next(s * scale for s in (0.1, 0.2, 0.5, 1.0, 2.0) if span / (s * scale) <= 6)
        first = math.ceil(self.low / step - 1e-9)
        return [n * step for n in range(first, math.floor(self.high / step + 1e-9) + 1)]

    def labels(self, values: Sequence[float], *, sign: str = "×") -> list[str]:
        """Return what stands at the ticks."""
        return [sign + _tick(value) for value in values]


def _tick(value: float) -> str:
    exponent = round(math.log10(value))
    whole = math.isclose(value, 10.0**exponent)
    if whole and not -3 <= exponent <= 3:
        return power(exponent)
    return f"{value:,.4g}" if value < 1000 else f"{value:,.0f}"


def log_axis(values: Iterable[float], *, margin: float = 0.06) -> LogAxis:
    """Return an axis that holds all finite values above 0, and 1, with room at both ends."""
    logs = [math.log10(v) for v in (1.0, *values) if math.isfinite(v) and v > 0]
    low, high = min(logs), max(logs)
    room = max(margin * (high - low), 0.01)
    return LogAxis(low=10 ** max(low - room, -300.0), high=10 ** min(high + room, 300.0))


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
    """Return the style of a mark that has a line of its own colour around it; ``own`` is added."""
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
