"""The axis of training steps: logarithmic, since what emerges does so early; or the order alone."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from robustness.report.html.parts import Figure, axis

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
