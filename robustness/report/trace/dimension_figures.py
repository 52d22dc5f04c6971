"""The figures of one dimension over a run, and their axis of training steps.

The axis is logarithmic, since what emerges does so early; or the order alone.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from robustness.report.html.parts import Figure, axis, layout, line_across, lined, scatter
from robustness.report.words import number
from robustness.trace.emergence import History, Step

HEIGHT_PX = 210
MOST_TICKS = 8


@dataclass(frozen=True, kw_only=True)
class StepAxis:
    """Where the checkpoints of a run are drawn."""

    x: tuple[float, ...]  # of each of them, in units of the axis
    names: tuple[str, ...]  # what stands at their ticks
    title: str  # of the axis
    logarithmic: bool  # otherwise they stand at equal distances

    def figure(self, **own: object) -> Figure:
        """The axis as plotly has it; ``own`` is added."""
        places = [math.log10(x) for x in self.x] if self.logarithmic else list(self.x)
        low, high = min(places), max(places)
        room = max(0.05 * (high - low), 0.1 if self.logarithmic else 0.5)
        shown = _spread(places, (high - low) / MOST_TICKS)
        return axis(
            self.title,
            type="log" if self.logarithmic else "linear",
            range=[low - room, high + room],
            tickvals=[self.x[place] for place in shown],
            ticktext=[self.names[place] for place in shown],
            tickangle=0,
            minor={"showgrid": False},
            showline=True,
            fixedrange=True,
            **own,
        )


def step_axis(steps: Sequence[int | None]) -> StepAxis:
    """Return the axis of a run's checkpoints; where one has no step, they are counted instead.

    Step 0 has no place on a logarithmic axis: it is drawn before the first one, at its half.
    """
    known = [step for step in steps if step is not None]
    if len(known) < len(steps):
        places = range(1, len(steps) + 1)
        return StepAxis(
            x=tuple(map(float, places)),
            names=tuple(map(str, places)),
            title="checkpoint, in the order given",
            logarithmic=False,
        )
    first = min((step for step in known if step), default=2)
    return StepAxis(
        x=tuple(float(step or first / 2) for step in known),
        names=tuple(map(step_name, known)),
        title="training step (logarithmic)",
        logarithmic=True,
    )


def step_name(step: int) -> str:
    """``500``, ``2,500``, ``20k``, ``1.2M``."""
    if step >= 10**6 and step % 10**5 == 0:
        return f"{step / 10**6:g}M"
    return f"{step // 1000}k" if step >= 10_000 and step % 1000 == 0 else f"{step:,}"


def _spread(places: Sequence[float], distance: float) -> list[int]:
    """Return the last one, the first one, and between them those that keep their distance."""
    last = len(places) - 1
    shown = [last]
    for place in range(last - 1, 0, -1):
        if min(places[shown[-1]] - places[place], places[place] - places[0]) >= distance:
            shown.append(place)
    return sorted({0, *shown})


def values(history: History, steps: Sequence[Step], x: StepAxis, *, of: str, k: float) -> Figure:
    """Draw a parameter of a dimension in one layer, and where those of the others lie there.

    ``of`` is ``scale`` or ``bias``; ``k`` standard deviations are half of the band's width.
    """
    track = history.track(of)
    spread = list(zip(track.layer_mean, track.layer_std, strict=True))
    band = [[mean + sign * k * std for mean, std in spread] for sign in (-1, 1)]
    text = [
        f"{of} {number(value)}, the layer's mean {number(mean)} ± {number(std)}"
        for value, (mean, std) in zip(track.value, spread, strict=True)
    ]
    return _figure(history, steps, x, band, track.value, text, layer=track.layer, title=of)


def distances(history: History, steps: Sequence[Step], x: StepAxis, *, of: str, k: float) -> Figure:
    """Draw how far out a parameter of a dimension lies, in one layer and over all layers.

    The arguments are those of :func:`values`; beyond ``k`` the rule flags the dimension.
    """
    track = history.track(of)
    band = [track.z_lowest, track.z_highest]
    text = [
        f"z of the {of} {signed(z)}, over all layers {signed(low)} to {signed(high)}"
        for z, low, high in zip(track.z, *band, strict=True)
    ]
    title, lines = f"z of the {of}", (-k, k)
    return _figure(
        history, steps, x, band, track.z, text, layer=track.layer, title=title, lines=lines
    )


def _figure(
    history: History,
    steps: Sequence[Step],
    x: StepAxis,
    band: Sequence[Sequence[float]],
    values: Sequence[float],
    text: Sequence[str],
    *,
    layer: int,
    title: str,
    lines: Sequence[float] = (),
) -> Figure:
    shown = [*band[0], *band[1], *values, *lines]
    low, high = min(shown), max(shown)
    room = 0.08 * (high - low) or 0.1
    hover = [
        f"<b>{at_step(step)}</b>, layer {layer}<br>{numbers}<br>{'' if flagged else 'not '}flagged"
        for step, numbers, flagged in zip(steps, text, history.flagged, strict=True)
    ]
    trace = line_of(x.x, values, hover, name="followed", mark="circle", colour="@accent")
    trace["marker"]["symbol"] = ["circle" if it else "circle-open" for it in history.flagged]
    shapes = [line_across(at, width=1, dash="dash") for at in lines]
    if history.emerged:  # not where it was there from the first checkpoint on
        ends = {"y0": 0, "y1": 1, "x0": x.x[history.emerged], "x1": x.x[history.emerged]}
        dotted = {"color": "@pass", "width": 1.5, "dash": "dot"}
        shapes.append({"type": "line", "yref": "paper", **ends, "line": dotted})
    return {
        "data": [*_bands(x.x, *band), trace],
        "layout": layout(
            height=HEIGHT_PX,
            xaxis=x.figure(),
            yaxis=axis(title, range=[low - room, high + room], fixedrange=True, nticks=6),
            shapes=shapes,
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
    """Return a step in words; nothing in it is markup."""
    name = step.scan.label if step.step is None else f"step {step.step:,}"
    return "".join(c if c.isprintable() and c not in "<>&%" else "?" for c in name)


def signed(z: float) -> str:
    """Return a distance in standard deviations with its sign."""
    return f"{z:+.2f}".replace("-", "−")
