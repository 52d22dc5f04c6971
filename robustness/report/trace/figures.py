"""The figures of a trace: pure functions of its steps, in plotly's plain JSON types."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from robustness.report.html.axes import LogAxis, log_axis
from robustness.report.html.parts import (
    Figure,
    axis,
    bounded,
    error_bars,
    interval,
    layout,
    lined,
    log_scale,
    scatter,
)
from robustness.report.trace.dimension_figures import at_step, line_of, signed
from robustness.report.trace.step_axis import StepAxis
from robustness.report.words import number
from robustness.trace.emergence import Course, Step
from robustness.trace.step_measure import Degradation, Measured

TIMELINE = 24
"""Dimensions in the figure of when they were flagged, at most."""
ROW_PX, FIGURE_PX, GAP_PX, EDGE_PX = 22, 190, 42, 58


@dataclass(frozen=True, kw_only=True)
class Mark:
    """How the points of a line look."""

    symbol: str  # for plotly
    letter: str  # the same as text
    colour: str  # name of one


TOGETHER = Mark(symbol="circle", letter="●", colour="@accent")
RANDOM = Mark(symbol="circle-open", letter="○", colour="@muted")
ALONE = (
    Mark(symbol="square", letter="■", colour="@first"),
    Mark(symbol="diamond", letter="◆", colour="@second"),
    Mark(symbol="triangle-up", letter="▲", colour="@third"),
    Mark(symbol="star", letter="★", colour="@fourth"),
)
"""Of dimensions that are switched off one by one."""

Point = tuple[int, float, tuple[float, float] | None, str]
"""Place of a step, ratio, interval, and what more is to be said of it."""


@dataclass(frozen=True, kw_only=True)
class Line:
    """Degradations of one kind over the measured steps."""

    name: str  # what is switched off
    mark: Mark  # of its points
    points: tuple[Point, ...]  # at the steps where it was measured


def degradation_lines(steps: Sequence[Step]) -> tuple[Line, ...]:
    """All that was switched off at some step: together, one by one, and at random."""
    points = [(place, step.measured) for place, step in enumerate(steps) if step.measured]
    some = next((one for _, one in points if one.joint is not None), None)
    if some is None or some.joint is None:
        return ()
    joint = [_point(place, one.joint) for place, one in points if one.joint is not None]
    lines = [Line(name=together(some.joint.dims), mark=TOGETHER, points=tuple(joint))]
    for n, (alone, mark) in enumerate(zip(some.alone, ALONE, strict=False)):
        own = tuple(_point(place, one.alone[n]) for place, one in points)
        lines.append(Line(name=f"{alone.dims[0]} alone", mark=mark, points=own))
    size = len(some.joint.dims)
    name = f"{size} random" if size > 1 else "a random one"
    drawn: list[Point] = [
        (place, one.random.median, one.random.interval, f", {_draws(one)}")
        for place, one in points
        if one.random is not None
    ]
    lines.append(Line(name=name, mark=RANDOM, points=tuple(drawn)))
    return tuple(each for each in lines if each.points)


def together(dims: Sequence[int]) -> str:
    """``dimension 308``, ``308, 381 together``, ``all 5 together``."""
    if len(dims) == 1:
        return f"dimension {dims[0]}"
    return f"{dims[0]}, {dims[1]} together" if len(dims) == 2 else f"all {len(dims)} together"


def _point(place: int, degradation: Degradation) -> Point:
    return place, degradation.ratio, degradation.interval, ""


def _draws(measured: Measured) -> str:
    assert measured.random is not None
    draws = measured.random
    return f"median of {draws.draws} draw{'s' * (draws.draws != 1)}, mean ×{number(draws.mean)}"


Row: TypeAlias = tuple[float, Callable[[str], tuple[list[Figure], Figure]]]
"""A height in pixels, and what draws traces and their upright axis for that axis' name."""


def over_steps(steps: Sequence[Step], courses: Sequence[Course], x: StepAxis) -> Figure | None:
    """Draw on one axis when each dimension was flagged, perplexity and degradations."""
    rows: list[Row] = []
    shown = courses[:TIMELINE]
    if shown:
        rows.append((ROW_PX * len(shown) + 8, lambda y: _timeline(steps, shown, x, y)))
    if any(step.measured for step in steps):
        rows.append((FIGURE_PX, lambda y: _perplexity(steps, x, y)))
    lines = degradation_lines(steps)
    if lines:
        rows.append((FIGURE_PX, lambda y: _degradations(steps, lines, x, y)))
    if not rows:
        return None
    return _stacked(rows, x)


def _stacked(rows: Sequence[Row], x: StepAxis) -> Figure:
    """Return the rows of a figure above each other, over one axis of steps."""
    inside = sum(height for height, _ in rows) + GAP_PX * (len(rows) - 1)
    data: list[Figure] = []
    axes: Figure = {}
    top = inside
    for place, (height, draw) in enumerate(rows):
        suffix = "" if place == 0 else str(place + 1)
        traces, own = draw(f"y{suffix}")
        data += traces
        axes[f"yaxis{suffix}"] = {
            **own,
            "domain": [max(0.0, (top - height) / inside), top / inside],
            "fixedrange": True,
        }
        top -= height + GAP_PX
    last = "y" if len(rows) == 1 else f"y{len(rows)}"
    return {
        "data": data,
        "layout": layout(
            height=inside + EDGE_PX + 12,
            margin={"l": 8, "r": 16, "t": 12, "b": EDGE_PX},
            xaxis=x.figure(anchor=last),
            **axes,
        ),
    }


def _timeline(
    steps: Sequence[Step], courses: Sequence[Course], x: StepAxis, y: str
) -> tuple[list[Figure], Figure]:
    stays: list[tuple[float | None, int | None]] = []
    for row, course in enumerate(courses):
        if course.emerged is not None:
            stays += [(x.x[course.emerged], row), (x.x[-1], row), (None, None)]
    bar = {"color": "@interval", "width": 10}
    traces = [
        scatter(
            "stays", [at for at, _ in stays], [row for _, row in stays], mode="lines", line=bar
        ),
        _flags(steps, courses, x, "not flagged", lined("@muted", 1, symbol="circle-open", size=5)),
        _flags(steps, courses, x, "flagged", lined("@accent", 1, symbol="circle", size=10)),
    ]
    traces = [{**trace, "yaxis": y} for trace in traces]
    return traces, axis(
        "dimension" if len(courses) > 3 else "",
        tickvals=list(range(len(courses))),
        ticktext=[str(course.dim) for course in courses],
        range=[len(courses) - 0.5, -0.5],
        showgrid=False,
        tickfont={"color": "@ink", "size": 13},
    )


def _flags(
    steps: Sequence[Step], courses: Sequence[Course], x: StepAxis, name: str, marker: Figure
) -> Figure:
    """Return a point wherever a dimension is flagged, or is not."""
    points = [
        (row, place)
        for row, course in enumerate(courses)
        for place, is_flagged in enumerate(course.flagged)
        if is_flagged == (name == "flagged")
    ]
    text = [
        f"<b>dimension {courses[row].dim}</b>, {at_step(steps[place])}: {name}<br>"
        + _furthest(courses[row], place)
        for row, place in points
    ]
    across = [x.x[place] for _, place in points]
    rows = [row for row, _ in points]
    return scatter(name, across, rows, text, cliponaxis=False, marker=marker)


def _furthest(course: Course, place: int) -> str:
    bias = "" if course.z_bias is None else f", of the bias {signed(course.z_bias[place])}"
    return f"furthest layer: z of the scale {signed(course.z_scale[place])}{bias}"


def _perplexity(steps: Sequence[Step], x: StepAxis, y: str) -> tuple[list[Figure], Figure]:
    points = [(place, step.measured) for place, step in enumerate(steps) if step.measured]
    figures = [one.figure for _, one in points]
    name = points[0][1].quantity
    text = [
        f"<b>{at_step(steps[place])}</b><br>{name} {number(one.figure)}"
        f"{interval(one.interval, one.exact)}<br>{one.text_blocks} text blocks"
        for place, one in points
    ]
    logarithmic = name == "perplexity"
    scale = tight(figures, [end for _, one in points for end in one.interval or ()])
    trace = line_of(
        [x.x[place] for place, _ in points],
        [scale.inside(f) if logarithmic else f for f in figures],
        text,
        name=name,
        mark="circle",
        colour="@ink",
        y=y,
    )
    if logarithmic:
        intervals = [one.interval for _, one in points]
        trace["error_y"] = error_bars(figures, intervals, scale, "@muted", 1)
        own = {**log_scale(name, scale), "ticktext": scale.labels(scale.ticks, sign="")}
    else:
        own = axis(f"{name}, nats")
    return [trace], own


def _degradations(
    steps: Sequence[Step], lines: Sequence[Line], x: StepAxis, y: str
) -> tuple[list[Figure], Figure]:
    ratios = [ratio for line in lines for _, ratio, _, _ in line.points]
    ends = [end for line in lines for *_, ends, _ in line.points for end in ends or ()]
    scale = log_axis([*_near(ends, ratios), *ratios])
    thin = {"color": "@edge", "width": 1}
    unchanged = scatter("unchanged", [min(x.x), max(x.x)], [1, 1], mode="lines", line=thin, yaxis=y)
    return (
        [unchanged, *(_degradation(steps, line, x, y, scale) for line in lines)],
        log_scale("multiplied by", scale),
    )


def _degradation(steps: Sequence[Step], line: Line, x: StepAxis, y: str, scale: LogAxis) -> Figure:
    ratios = [ratio for _, ratio, _, _ in line.points]
    text = [
        f"<b>without {line.name}</b>, {at_step(steps[place])}<br>"
        f"×{number(ratio)}{interval(ends)}{more}"
        for place, ratio, ends, more in line.points
    ]
    trace = line_of(
        [x.x[place] for place, *_ in line.points],
        [scale.inside(ratio) for ratio in ratios],
        text,
        name=line.name,
        mark=line.mark.symbol,
        colour=line.mark.colour,
        y=y,
    )
    trace["marker"]["symbol"] = [
        line.mark.symbol if scale.contains(ratio) else "triangle-up-open" for ratio in ratios
    ]
    ends = [ends for *_, ends, _ in line.points]
    trace["error_y"] = error_bars(ratios, ends, scale, line.mark.colour, 1)
    if line.mark == RANDOM:
        trace["line"]["dash"] = "dot"
    return trace


def tight(held: Sequence[float], ends: Iterable[float], margin: float = 0.08) -> LogAxis:
    """A logarithmic axis around values above 0, and as much of intervals as can be read."""
    finite = [value for value in held if math.isfinite(value) and value > 0] or [1.0]
    logs = [math.log10(value) for value in (*finite, *_near(list(ends), finite))]
    room = max(margin * (max(logs) - min(logs)), 0.03)
    return LogAxis(low=10 ** (min(logs) - room), high=10 ** (max(logs) + room))


def _near(ends: Sequence[float], held: Sequence[float]) -> list[float]:
    """Ends of intervals, cut where they would squeeze what was measured: a decade beyond it."""
    finite = [value for value in held if math.isfinite(value) and value > 0] or [1.0]
    low, high = min(finite) / 10, max(finite) * 10
    return [min(max(end, low), high) for end in bounded(ends, held)]
