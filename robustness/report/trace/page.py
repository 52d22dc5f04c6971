"""The page of a trace: one file that needs no network, as closed as the report of a run."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from robustness import __version__
from robustness.report.html.page import rendered
from robustness.report.trace.dimension_figures import (
    StepAxis,
    distances,
    step_axis,
    step_name,
    values,
)
from robustness.report.trace.figures import TIMELINE, degradation_lines, over_steps
from robustness.report.words import counted, listed
from robustness.runtime.libraries import library_versions
from robustness.trace.emergence import History, Step, histories

if TYPE_CHECKING:
    from robustness.report.html.parts import Figure
    from robustness.trace.run_measure import RunMeasurement

DRAWN = 12
"""Dimensions with figures of their own, at most."""
K = 3.0
"""Standard deviations at which the figures draw a line, where a rule has no number of its own."""


def to_html(
    steps: Sequence[Step],
    rule: str,
    *,
    also: Sequence[int] = (),
    run: "RunMeasurement | None" = None,
    k: float = K,
) -> str:
    """Return the page.

    Args:
        steps: in order, measured or not.
        rule: as named in a scan's findings.
        also: dimensions that are followed whether or not it finds them.
        run: how the measured ones were.
        k: standard deviations from which on the rule flags a parameter.

    Raises:
        ReportError: a package is missing.
    """
    dim_histories = histories(steps, rule, also=also)
    x = step_axis([step.step for step in steps])
    figures: dict[str, Figure] = {}
    if (timeline := over_steps(steps, dim_histories, x)) is not None:
        figures["over-steps"] = timeline
    sections = []
    for history in dim_histories[:DRAWN]:
        shown = dict(_figures(history, steps, x, k))
        figures |= shown
        sections.append((history, list(shown)))
    return rendered(
        "trace.html.j2",
        figures,
        version=__version__,
        versions=library_versions(),
        steps=steps,
        rule=rule,
        k=k,
        scan=steps[0].scan,
        histories=dim_histories,
        sections=sections,
        lines=degradation_lines(steps),
        heading=heading(steps, dim_histories),
        run=run,
        named=named,
        said=said,
        listed=listed,
        DRAWN=DRAWN,
        TIMELINE=TIMELINE,
    )


def _figures(
    history: History, steps: Sequence[Step], x: StepAxis, k: float
) -> "Iterator[tuple[str, Figure]]":
    """Return a dimension's figures by their ids in the page, which end in what they are of."""
    for of in ("scale", "bias") if history.bias is not None else ("scale",):
        for kind, draw in (("value", values), ("z", distances)):
            yield f"dimension-{history.dim}-{of}-{kind}", draw(history, steps, x, of=of, k=k)


def heading(steps: Sequence[Step], dim_histories: Sequence[History]) -> str:
    """What the trace found, in a few words."""
    emerged = [history for history in dim_histories if history.emerged is not None]
    if not emerged:
        ever = any(any(history.flagged) for history in dim_histories)
        return "No outlier dimension stayed" if ever else "No outlier dimension emerged"
    if len(steps) == 1:
        return f"{counted(len(emerged), 'outlier dimension')} at {named(steps[0])}"
    later = sorted(history.dim for history in emerged if history.emerged)
    first = sorted(history.dim for history in emerged if not history.emerged)
    from_first = f"stand{'s' * (len(first) == 1)} out from the first checkpoint on"
    if not later:
        return f"{_subject(first)} {from_first}"
    more = f"; {len(first)} more {from_first}" if first else ""
    return f"{_subject(later)} emerged and stayed{more}"


def _subject(dims: Sequence[int]) -> str:
    if len(dims) > 3:
        return counted(len(dims), "outlier dimension")
    return f"Dimension{'s' * (len(dims) > 1)} {listed(dims)}"


def named(step: Step) -> str:
    """``step 20k``, or the checkpoint's name."""
    return step.scan.label if step.step is None else f"step {step_name(step.step)}"


def said(history: History, steps: Sequence[Step]) -> str:
    """When a dimension was flagged, in a sentence."""
    times, n = sum(history.flagged), len(steps)
    if not times:
        return "Never flagged; followed since it was asked for."
    if n == 1:
        return "Flagged at the only checkpoint."
    if times == n:
        return f"Flagged at all {n} checkpoints."
    often = f"Flagged at {times} of {n} checkpoints"
    if history.emerged is not None:
        return f"{often}; from {named(steps[history.emerged])} on it stays."
    last = max(place for place, flagged in enumerate(history.flagged) if flagged)
    return f"{often}, last at {named(steps[last])}; not in the end."
