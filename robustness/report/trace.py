"""What ``robustness trace`` shows: when each dimension emerged, and how far out it was then."""

from collections.abc import Iterator, Sequence

from robustness.emergence import Course, Step, courses
from robustness.report.sketch import legend, per_sign, sketch
from robustness.report.wording import DIMENSIONS, listed, wrapped

SKETCH = 40


def lines_of(steps: Sequence[Step], rule: str, *, unicode: bool) -> list[str]:
    """The report, in lines of at most 100 columns."""
    found = courses(steps, rule)
    scan = steps[0].scan
    lines = wrapped(
        f"{len(steps)} checkpoints, {steps[0].scan.label} to {steps[-1].scan.label}: "
        f"{scan.architecture}, {scan.layers} layers x {scan.hidden_size}; rule {rule}"
    )
    lines.append("")
    for step in steps:
        dims = next(one.dims for one in step.scan.findings if one.rule == rule)
        lines += wrapped(f"  {step.scan.label}: {listed(dims)}")
    if found:
        lines += ["", *_table(steps, found, unicode=unicode), "", *wrapped(_signs(unicode))]
    return [line.rstrip() for line in lines]


def _table(steps: Sequence[Step], found: Sequence[Course], *, unicode: bool) -> Iterator[str]:
    each = per_sign(len(steps), SKETCH)
    title = "over steps" + (f", {each} a sign" if each > 1 else "")
    width = max(len(title), -(-len(steps) // each))
    labels = [_short(step) for step in steps]
    emerged = max(7, *(len(label) for label in labels))
    yield f"dimension  {'emerged':{emerged}}  parameter  {title:{width}}  {'first':>8}  {'last':>8}"
    for course in found[:DIMENSIONS]:
        at = "(gone)" if course.emerged is None else labels[course.emerged]
        for name, z in (("scale", course.z_scale), ("bias", course.z_bias)):
            if z is None:
                continue
            head = (str(course.dim), at) if name == "scale" else ("", "")
            yield (
                f"{head[0]:>9}  {head[1]:{emerged}}  {name:9}  "
                f"{sketch(z, width=SKETCH, unicode=unicode):{width}}  {z[0]:>+8.1f}  {z[-1]:>+8.1f}"
            )
    if len(found) > DIMENSIONS:
        yield f"and {len(found) - DIMENSIONS} more; --json has them all"


def _short(step: Step) -> str:
    """A step's number; the last 16 letters of its name where it has none."""
    return step.scan.label[-16:] if step.step is None else str(step.step)


def _signs(unicode: bool) -> str:
    return f"{legend(unicode=unicode)}; of every step, in the layer where it is furthest out"
