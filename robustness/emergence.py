"""When outlier dimensions emerged: the checkpoints of one run, in the order of its steps."""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from glob import glob, has_magic
from pathlib import Path
from typing import Any

import numpy as np

from robustness.errors import CheckpointError
from robustness.scanning import Scan

SCHEMA = 1
"""Of what a trace is in JSON; part of the public interface."""

_FOLDERS = "checkpoint-*"


@dataclass(frozen=True, kw_only=True)
class Step:
    """One checkpoint of a run.

    Attributes:
        reference: as it is scanned.
        step: the number in its name; ``None`` where it has none.
        scan: what the rules on weights say of it.
    """

    reference: str
    step: int | None
    scan: Scan


@dataclass(frozen=True, kw_only=True)
class Course:
    """One dimension over a run.

    Attributes:
        dim: its index, the same in every step.
        flagged: for each step, whether the rule finds it.
        emerged: index of the first step from which on it is found in every one; ``None`` where it
            is not found in the last.
        z_scale: for each step, the scale's z furthest from 0 in any layer.
        z_bias: likewise of the bias; ``None`` where the sites have none.
    """

    dim: int
    flagged: tuple[bool, ...]
    emerged: int | None
    z_scale: tuple[float, ...]
    z_bias: tuple[float, ...] | None


def in_order(references: Sequence[str]) -> list[tuple[str, int | None]]:
    """The checkpoints of a run with their steps, ascending; as named where a name has no number.

    Args:
        references: checkpoints; a quoted pattern stands for what it matches, and a folder that is
            none but holds ``checkpoint-*`` for these.

    Raises:
        CheckpointError: a pattern matches nothing, two checkpoints have the same step, or there is
            only one.
    """
    found = [
        (reference, step_of(reference)) for text in references for reference in _expanded(text)
    ]
    steps = [step for _, step in found]
    if all(step is not None for step in steps):
        found.sort(key=lambda one: one[1] or 0)
        twice = [step for step in steps if steps.count(step) > 1]
        if twice:
            raise CheckpointError(
                f"two of the checkpoints are named after step {twice[0]}: name those of one run"
            )
    if len(found) < 2:
        raise CheckpointError("a trace needs at least two checkpoints of one run, in order")
    return found


def step_of(reference: str) -> int | None:
    """The step in a checkpoint's name: the last number of ``checkpoint-9000`` or ``x@step_20k``."""
    name = reference.rpartition("@")[2].rstrip("/").rpartition("/")[2]
    numbers = re.findall(r"(\d+)([kKmM]?)(?![A-Za-z\d])", name)
    if not numbers:
        return None
    digits, unit = numbers[-1]
    return int(digits) * {"": 1, "k": 1000, "m": 1_000_000}[unit.lower()]


def require_one_run(steps: Sequence[Step]) -> None:
    """Refuse checkpoints that cannot be of one run: their dimensions are not the same ones.

    Raises:
        CheckpointError: naming what differs.
    """
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


def courses(steps: Sequence[Step], rule: str) -> tuple[Course, ...]:
    """Every dimension that a rule finds in some step, the earliest to emerge first.

    Args:
        steps: in order.
        rule: as named in a scan's findings.
    """
    require_one_run(steps)
    found = [set(_dims(step.scan, rule)) for step in steps]
    dims = sorted(set().union(*found))
    all_courses = [_course(dim, steps, [dim in one for one in found]) for dim in dims]
    last = len(steps)
    return tuple(
        sorted(all_courses, key=lambda one: (last if one.emerged is None else one.emerged, one.dim))
    )


def to_dict(steps: Sequence[Step], rule: str) -> dict[str, Any]:
    """Plain JSON types."""
    return {
        "schema": SCHEMA,
        "rule": rule,
        "steps": [
            {
                "reference": step.reference,
                "label": step.scan.label,
                "revision": step.scan.revision,
                "step": step.step,
                "dims": list(_dims(step.scan, rule)),
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
            }
            for course in courses(steps, rule)
        ],
    }


def _expanded(text: str) -> Iterator[str]:
    path = Path(text)
    if has_magic(text) and not path.exists():
        matches = [match for match in sorted(glob(text)) if Path(match).exists()]  # noqa: PTH207
        if not matches:
            raise CheckpointError(f"nothing matches {text!r}: check the path")
        yield from matches
    elif path.is_dir() and not (path / "config.json").exists() and any(path.glob(_FOLDERS)):
        yield from (str(found) for found in sorted(path.glob(_FOLDERS)) if found.is_dir())
    else:
        yield text


def _dims(scan: Scan, rule: str) -> tuple[int, ...]:
    return next(finding.dims for finding in scan.findings if finding.rule == rule)


def _course(dim: int, steps: Sequence[Step], flagged: list[bool]) -> Course:
    emerged = len(flagged)
    while emerged > 0 and flagged[emerged - 1]:
        emerged -= 1
    bias = [step.scan.z_bias for step in steps]
    known = [z for z in bias if z is not None]
    return Course(
        dim=dim,
        flagged=tuple(flagged),
        emerged=emerged if emerged < len(flagged) else None,
        z_scale=tuple(_furthest(step.scan.z_scale, dim) for step in steps),
        z_bias=tuple(_furthest(z, dim) for z in known) if len(known) == len(bias) else None,
    )


def _furthest(z: "np.ndarray[Any, np.dtype[np.float64]]", dim: int) -> float:
    column = z[:, dim]
    return float(column[np.argmax(np.abs(column))])


def traced_steps(
    references: Sequence[str], scan: Callable[[str, str], Scan], labels: Sequence[str]
) -> Iterator[Step]:
    """Scan one checkpoint after the other.

    Args:
        references: in order.
        scan: called with a reference and its label.
        labels: unique, in the same order.
    """
    for reference, label in zip(references, labels, strict=True):
        yield Step(reference=reference, step=step_of(reference), scan=scan(reference, label))
