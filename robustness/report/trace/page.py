"""The page of a trace: one file that needs no network, as closed as the report of a run."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from robustness import __version__
from robustness.report.html.page import rendered
from robustness.report.trace.dimension_figures import distances, values
from robustness.report.trace.figures import TIMELINE, Line, degradation_lines, over_steps
from robustness.report.trace.step_axis import StepAxis, step_axis, step_name
from robustness.report.words import counted, listed, number
from robustness.runtime.libraries import library_versions
from robustness.trace.emergence import Course, Step, courses

if TYPE_CHECKING:
    from robustness.report.html.parts import Figure
    from robustness.trace.run_measure import RunMeasurement

DRAWN = 12
"""Dimensions with figures of their own, at most."""
K = 3.0
"""Standard deviations at which the figures draw a line, where a rule has no number of its own."""


@dataclass(frozen=True, kw_only=True)
class Section:
    """A dimension as it is shown."""

    anchor: str  # its id in the page
    course: Course  # what it did
    figures: tuple[tuple[str, str, str], ...]  # their ids, with what they show


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
    dim_courses = courses(steps, rule, also=also)
    x = step_axis([step.step for step in steps])
    figures: dict[str, Figure] = {}
    if (timeline := over_steps(steps, dim_courses, x)) is not None:
        figures["over-steps"] = timeline
    lines = degradation_lines(steps)
    drawn = [_section(each, steps, x, k) for each in dim_courses[:DRAWN]]
    for _, own in drawn:
        figures |= own
    return rendered(
        "trace.html.j2",
        figures,
        version=__version__,
        versions=library_versions(),
        steps=steps,
        rule=rule,
        k=k,
        scan=steps[0].scan,
        courses=dim_courses,
        sections=[section for section, _ in drawn],
        lines=lines,
        caption=_caption(steps, dim_courses, lines, run),
        heading=heading(steps, dim_courses),
        run=run,
        named=named,
        said=said,
        listed=listed,
        DRAWN=DRAWN,
    )


def _section(
    course: Course, steps: Sequence[Step], x: StepAxis, k: float
) -> "tuple[Section, dict[str, Figure]]":
    """Return what is shown of a dimension, and its figures by their ids in the page."""
    anchor = f"dimension-{course.dim}"
    names, figures = [], {}
    for of, track in (("scale", course.scale), ("bias", course.bias)):
        if track is None:
            continue
        for kind, draw, shown in (
            ("value", values, f"{of} in layer {track.layer}"),
            ("z", distances, f"{of}, in standard deviations from its layer's mean"),
        ):
            name = f"{anchor}-{of}-{kind}"
            figures[name] = draw(course, steps, x, of=of, k=k)
            names.append((name, shown, _described(course, steps, of)))
    return Section(anchor=anchor, course=course, figures=tuple(names)), figures


def heading(steps: Sequence[Step], dim_courses: Sequence[Course]) -> str:
    """What the trace found, in a few words."""
    emerged = [course for course in dim_courses if course.emerged is not None]
    if not emerged:
        ever = any(any(course.flagged) for course in dim_courses)
        return "No outlier dimension stayed" if ever else "No outlier dimension emerged"
    if len(steps) == 1:
        return f"{counted(len(emerged), 'outlier dimension')} at {named(steps[0])}"
    later = sorted(course.dim for course in emerged if course.emerged)
    first = sorted(course.dim for course in emerged if not course.emerged)
    from_first = f"stand{'s' * (len(first) == 1)} out from the first checkpoint on"
    if not later:
        return f"{_subject(first)} {from_first}"
    more = f"; {len(first)} more {from_first}" if first else ""
    return f"{_subject(later)} emerged and stayed{more}"


def _subject(dims: Sequence[int]) -> str:
    few = len(dims) <= 3
    return (
        f"Dimension{'s' * (len(dims) > 1)} {listed(dims)}"
        if few
        else counted(len(dims), "outlier dimension")
    )


def _caption(
    steps: Sequence[Step],
    dim_courses: Sequence[Course],
    lines: Sequence[Line],
    run: "RunMeasurement | None",
) -> str:
    parts = []
    if dim_courses:
        more = (
            f"; the first {TIMELINE} of {len(dim_courses)}" if len(dim_courses) > TIMELINE else ""
        )
        parts.append(
            f"When each dimension is flagged (filled), and from when on it stays (bar){more}."
        )
    if (some := next((step.measured for step in steps if step.measured), None)) is not None:
        what = ", with what it is multiplied by where dimensions are switched off" if lines else ""
        parts.append(
            f"{'Below, the' if dim_courses else 'The'} intact model's {some.quantity}{what}."
        )
        sure = "" if run is None else f", each right with confidence {number(run.confidence)}"
        parts.append(
            f"Upright bars are intervals for the whole corpus{sure}; a value without one is exact, "
            "or rests on too few text blocks or draws."
        )
    if 0 in [step.step for step in steps] and len(steps) > 1:
        parts.append("Step 0 has no place on a logarithmic axis: it stands before the others.")
    return " ".join(parts)


def named(step: Step) -> str:
    """``step 20k``, or the checkpoint's name."""
    return step.scan.label if step.step is None else f"step {step_name(step.step)}"


def said(course: Course, steps: Sequence[Step]) -> str:
    """When a dimension was flagged, in a sentence."""
    times, n = sum(course.flagged), len(steps)
    if not times:
        return "Never flagged; followed since it was asked for."
    if n == 1:
        return "Flagged at the only checkpoint."
    if times == n:
        return f"Flagged at all {n} checkpoints."
    often = f"Flagged at {times} of {n} checkpoints"
    if course.emerged is not None:
        return f"{often}; from {named(steps[course.emerged])} on it stays."
    last = max(place for place, flagged in enumerate(course.flagged) if flagged)
    return f"{often}, last at {named(steps[last])}; not in the end."


def _described(course: Course, steps: Sequence[Step], of: str) -> str:
    """Describe a figure of a dimension for those who do not see it."""
    track = course.scale if of == "scale" else course.bias
    assert track is not None
    ends = (
        f"{named(steps[place])}: {track.value[place]:.4g}, z {track.z[place]:+.1f}"
        for place in dict.fromkeys((0, len(steps) - 1))
    )
    return f"The {of} of dimension {course.dim} in layer {track.layer}; {'; '.join(ends)}."
