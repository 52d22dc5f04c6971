"""The figures of one dimension over a run: its scale and bias, and how far out they lie."""

from collections.abc import Sequence

from robustness.report.html.parts import Figure, axis, layout, line_across, lined, scatter
from robustness.report.trace.step_axis import StepAxis
from robustness.report.words import number
from robustness.trace.emergence import Course, Step
from robustness.trace.tracks import Track

HEIGHT_PX = 210


def values(course: Course, steps: Sequence[Step], x: StepAxis, *, of: str, k: float) -> Figure:
    """Draw a parameter of a dimension in one layer, and where those of the others lie there.

    ``of`` is ``scale`` or ``bias``; ``k`` standard deviations are half of the band's width.
    """
    track = _track(course, of)
    low = [m - k * s for m, s in zip(track.layer_mean, track.layer_std, strict=True)]
    high = [m + k * s for m, s in zip(track.layer_mean, track.layer_std, strict=True)]
    text = [
        f"<b>{at_step(step)}</b>, layer {track.layer}<br>{of} {number(value)}, "
        f"the layer's mean {number(mean)} ± {number(std)}<br>{_flagged(course.flagged[place])}"
        for place, (step, value, mean, std) in enumerate(
            zip(steps, track.value, track.layer_mean, track.layer_std, strict=True)
        )
    ]
    return _course_figure(
        course, x, low=low, high=high, values=track.value, text=text, title=f"{of}", lines=()
    )


def distances(course: Course, steps: Sequence[Step], x: StepAxis, *, of: str, k: float) -> Figure:
    """Draw how far out a parameter of a dimension lies, in one layer and over all layers.

    The arguments are those of :func:`values`; beyond ``k`` the rule flags the dimension.
    """
    track = _track(course, of)
    text = [
        f"<b>{at_step(step)}</b>, layer {track.layer}<br>z of the {of} {signed(z)}, over all "
        f"layers {signed(low)} to {signed(high)}<br>{_flagged(course.flagged[place])}"
        for place, (step, z, low, high) in enumerate(
            zip(steps, track.z, track.z_lowest, track.z_highest, strict=True)
        )
    ]
    return _course_figure(
        course,
        x,
        low=track.z_lowest,
        high=track.z_highest,
        values=track.z,
        text=text,
        title=f"z of the {of}",
        lines=(-k, k),
    )


def _course_figure(
    course: Course,
    x: StepAxis,
    *,
    low: Sequence[float],
    high: Sequence[float],
    values: Sequence[float],
    text: Sequence[str],
    title: str,
    lines: Sequence[float],
) -> Figure:
    shown = [*low, *high, *values, *lines]
    room = 0.08 * (max(shown) - min(shown)) or 0.1
    trace = line_of(x.x, values, text, name="followed", mark="circle", colour="@accent")
    trace["marker"]["symbol"] = ["circle" if each else "circle-open" for each in course.flagged]
    dashed = [line_across(at, width=1, dash="dash") for at in lines]
    if course.emerged:  # not where it was there from the first checkpoint on
        dashed.append(_upright(x.x[course.emerged]))
    return {
        "data": [*_bands(x.x, low, high), trace],
        "layout": layout(
            height=HEIGHT_PX,
            xaxis=x.figure(),
            yaxis=axis(
                title, range=[min(shown) - room, max(shown) + room], fixedrange=True, nticks=6
            ),
            shapes=dashed,
        ),
    }


def _bands(x: Sequence[float], low: Sequence[float], high: Sequence[float]) -> list[Figure]:
    """Return a band over the steps; of one step, where it has no width, its ends."""
    if len(x) == 1:
        ends = scatter("ends", [*x, *x], [*low, *high], mode="lines+markers")
        marker = lined("@muted", 1.5, symbol="line-ew-open", size=9)
        return [{**ends, "line": {"color": "@muted", "width": 1.5}, "marker": marker}]
    edges = [
        scatter(None, x, y, mode="lines", fillcolor="@interval", line={"width": 0})
        for y in (low, high)
    ]
    return [edges[0], {**edges[1], "fill": "tonexty"}]


def _upright(at: float) -> Figure:
    ends = {"y0": 0, "y1": 1, "x0": at, "x1": at}
    dotted = {"color": "@pass", "width": 1.5, "dash": "dot"}
    return {"type": "line", "yref": "paper", **ends, "line": dotted}


def _track(course: Course, of: str) -> Track:
    track = course.scale if of == "scale" else course.bias
    assert track is not None
    return track


def line_of(
    x: Sequence[float],
    values: Sequence[float],
    text: Sequence[str],
    *,
    name: str,
    mark: str,
    colour: str,
    y: str = "y",
) -> Figure:
    """Return points and the line through them."""
    return scatter(
        name,
        x,
        values,
        text,
        mode="lines+markers",
        yaxis=y,
        cliponaxis=False,
        line={"color": colour, "width": 2},
        marker=lined(colour, 1.5, symbol=mark, size=9),
    )


def at_step(step: Step) -> str:
    """A step in words; nothing in it is markup."""
    name = step.scan.label if step.step is None else f"step {step.step:,}"
    return "".join(c if c.isprintable() and c not in "<>&%" else "?" for c in name)


def _flagged(flagged: bool) -> str:
    return "flagged" if flagged else "not flagged"


def signed(z: float) -> str:
    """A distance in standard deviations, with its sign."""
    return f"{z:+.2f}".replace("-", "−")
