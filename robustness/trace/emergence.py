"""When outlier dimensions emerged: the checkpoints of one run, in the order of its steps."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from robustness.errors import CheckpointError
from robustness.outliers.scanning import Scan
from robustness.trace.run_order import step_of
from robustness.trace.tracks import Track, track

if TYPE_CHECKING:
    from robustness.trace.step_measure import Measured

SCHEMA = 1
"""Of what a trace is in JSON; part of the public interface."""


@dataclass(frozen=True, kw_only=True)
class Step:
    """One checkpoint of a run."""

    reference: str  # as it is scanned
    step: int | None  # the number in its name; ``None`` where it has none
    scan: Scan  # what the rules on weights say of it
    measured: "Measured | None" = None  # on text; ``None`` where it was not
    unmeasurable: str = ""  # why it could not be, although it should

    def dims(self, rule: str) -> tuple[int, ...]:
        """The outlier dimensions by a rule, ascending."""
        return next(one.dims for one in self.scan.findings if one.rule == rule)


@dataclass(frozen=True, kw_only=True)
class Course:
    """One dimension over a run."""

    dim: int  # its index, the same in every step
    flagged: tuple[bool, ...]  # for each step, whether the rule finds it
    # index of the first step from which on it is found in every one; ``None`` where it is not found
    # in the last
    emerged: int | None
    z_scale: tuple[float, ...]  # for each step, the scale's z furthest from 0 in any layer
    z_bias: tuple[float, ...] | None  # the bias'; ``None`` where the sites have none
    scale: Track  # the scale in one layer over the steps
    bias: Track | None  # the bias; ``None`` where the sites have none


def require_one_run(steps: Sequence[Step]) -> None:
    """Refuse checkpoints that cannot be of one run: their dimensions are not the same ones."""
    first = steps[0].scan
    for other in (step.scan for step in steps[1:]):
        for what, here, there in (
            ("architecture", first.architecture, other.architecture),
            ("number of layers", first.layers, other.layers),
            ("hidden size", first.hidden_size, other.hidden_size),
            ("sites", first.shape, other.shape),
        ):
            if here != there:
                raise CheckpointError(
                    f"{first.label} and {other.label} are not of one run: their {what} differs "
                    f"({here}, {there}), so no dimension of one is a dimension of the other"
                )


def courses(steps: Sequence[Step], rule: str, *, also: Sequence[int] = ()) -> tuple[Course, ...]:
    """Return every dimension that a rule finds in some step, the earliest to emerge first.

    ``also`` are dimensions that are followed whether or not it finds them.
    """
    require_one_run(steps)
    dims_by_step = [set(step.dims(rule)) for step in steps]
    dims = sorted(set(also).union(*dims_by_step))
    all_courses = [_course(dim, steps, [dim in one for one in dims_by_step]) for dim in dims]
    last = len(steps)
    return tuple(
        sorted(all_courses, key=lambda one: (last if one.emerged is None else one.emerged, one.dim))
    )


def followed(all_courses: Sequence[Course]) -> tuple[int, ...]:
    """The dimensions to switch off, ascending: those that emerged, or else all that were found."""
    emerged = [course.dim for course in all_courses if course.emerged is not None]
    return tuple(sorted(emerged or [course.dim for course in all_courses]))


def to_dict(steps: Sequence[Step], rule: str, *, also: Sequence[int] = ()) -> dict[str, Any]:
    """Plain JSON types; see :func:`courses`."""
    return {
        "schema": SCHEMA,
        "rule": rule,
        "steps": [
            {
                "reference": step.reference,
                "label": step.scan.label,
                "revision": step.scan.revision,
                "step": step.step,
                "dims": list(step.dims(rule)),
                "measured": step.measured and step.measured.to_dict(),
                "unmeasurable": step.unmeasurable,
            }
            for step in steps
        ],
        "dimensions": [
            {
                "dim": course.dim,
                "flagged": list(course.flagged),
                "emerged": None if course.emerged is None else steps[course.emerged].scan.label,
                "z_scale": list(course.z_scale),
                "z_bias": None if course.z_bias is None else list(course.z_bias),
                "scale": course.scale.to_dict(),
                "bias": course.bias and course.bias.to_dict(),
            }
            for course in courses(steps, rule, also=also)
        ],
    }


def _course(dim: int, steps: Sequence[Step], flagged: list[bool]) -> Course:
    emerged = len(flagged)
    while emerged > 0 and flagged[emerged - 1]:
        emerged -= 1
    last = max((n for n, found in enumerate(flagged) if found), default=len(flagged) - 1)
    scans = [step.scan for step in steps]
    z_bias = [scan.z_bias for scan in scans if scan.z_bias is not None]
    biases = [scan.bias for scan in scans if scan.bias is not None]
    biased = len(z_bias) == len(biases) == len(scans)
    return Course(
        dim=dim,
        flagged=tuple(flagged),
        emerged=emerged if emerged < len(flagged) else None,
        z_scale=tuple(_furthest(scan.z_scale, dim) for scan in scans),
        z_bias=tuple(_furthest(z, dim) for z in z_bias) if biased else None,
        scale=track(dim, [s.scale for s in scans], [s.z_scale for s in scans], layer_of=last),
        bias=track(dim, biases, z_bias, layer_of=last) if biased else None,
    )


def _furthest(z: "np.ndarray[Any, np.dtype[np.float64]]", dim: int) -> float:
    column = z[:, dim]
    return float(column[np.argmax(np.abs(column))])


def traced_steps(
    references: Sequence[str], scan: Callable[[str, str], Scan], labels: Sequence[str]
) -> Iterator[Step]:
    """Scan one checkpoint after the other, each by its reference and its unique label."""
    for reference, label in zip(references, labels, strict=True):
        yield Step(reference=reference, step=step_of(reference), scan=scan(reference, label))
