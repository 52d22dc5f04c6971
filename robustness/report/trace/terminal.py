"""What ``robustness trace`` shows: when each dimension emerged, and how far out it was then."""

from collections.abc import Iterator, Sequence

from robustness.report.terminal.sketch import legend, per_sign, sketch
from robustness.report.words import DIMENSIONS, WIDTH, figure, listed, wrapped
from robustness.trace.emergence import Course, Step, courses
from robustness.trace.step_measure import Degradation, Measured

SKETCH = 40
LABEL = 28
"""Letters of a checkpoint's name in the table of what was measured."""


def lines_of(
    steps: Sequence[Step], rule: str, *, also: Sequence[int] = (), unicode: bool
) -> list[str]:
    """The report, in lines of at most 100 columns."""
    found = courses(steps, rule, also=also)
    scan = steps[0].scan
    n = len(steps)
    ends = f"{scan.label} to {steps[-1].scan.label}" if n > 1 else scan.label
    lines = wrapped(
        f"{n} checkpoint{'s' * (n > 1)}, {ends}: {scan.architecture}, {scan.layers} layers x "
        f"{scan.hidden_size}; rule {rule}"
    )
    lines.append("")
    if any(step.measured for step in steps):
        lines += _measured(steps, rule)
    else:
        for step in steps:
            lines += wrapped(f"  {step.scan.label}: {listed(step.dims(rule))}")
    if found:
        lines += ["", *_table(steps, found, unicode=unicode), "", *wrapped(_signs(unicode))]
    return [line.rstrip() for line in lines]


def _measured(steps: Sequence[Step], rule: str) -> Iterator[str]:
    """Return a row for each checkpoint, measured or not, and what the columns are."""
    some = next(step.measured for step in steps if step.measured)
    labels = [_cut(step.scan.label) for step in steps]
    width = max(10, *map(len, labels))
    heads = [some.quantity.removeprefix("replaced-token ")]
    if some.joint is not None:
        heads += [f"{each.dims[0]} off" for each in some.alone]
        heads.append("all off" if len(some.joint.dims) > 1 else f"{some.joint.dims[0]} off")
        heads.append("random off")
    head = f"{'checkpoint':{width}}" + "".join(f"{name:>12}" for name in heads)
    yield f"{head}  dimensions"
    for label, step in zip(labels, steps, strict=True):
        cells = _cells(step.measured, some) if step.measured else ["-"] * len(heads)
        row = f"{label:{width}}" + "".join(f"{cell:>12}" for cell in cells)
        dims = listed(step.dims(rule))
        if len(row) + 2 + len(dims) > WIDTH:
            dims = str(len(step.dims(rule)))
        yield f"{row}  {dims}"
    yield ""
    yield from wrapped(_explained(some))


def _cells(measured: Measured, some: Measured) -> list[str]:
    cells = [figure(measured.figure)]
    if some.joint is not None:
        cells += [_ratio(each) for each in (*measured.alone, measured.joint)]
        random = measured.random
        cells.append("-" if random is None else f"x{figure(random.median)}")
    return cells


def _ratio(degradation: Degradation | None) -> str:
    return "-" if degradation is None else f"x{figure(degradation.ratio)}"


def _explained(some: Measured) -> str:
    blocks = f"{some.text_blocks} text blocks" + (" (all)" if some.exact else "")
    if some.joint is None:
        return f"{blocks} of each; no dimension was found that could be switched off"
    text = (
        f"{blocks} of each; off: {some.quantity} times this without these dimensions "
        f"({listed(some.joint.dims)})"
    )
    if some.random is None:
        return f"{text}; there are not as many others for a random control"
    return f"{text}, or without as many random others (median of {some.random.draws} draws)"


def _table(steps: Sequence[Step], drawn: Sequence[Course], *, unicode: bool) -> Iterator[str]:
    cells = per_sign(len(steps), SKETCH)
    title = "over steps" + (f", {cells} a sign" if cells > 1 else "")
    width = max(len(title), -(-len(steps) // cells))
    emerged = [_emerged(course, steps) for course in drawn[:DIMENSIONS]]
    wide = max(7, *map(len, emerged))
    yield f"dimension  {'emerged':{wide}}  parameter  {title:{width}}  {'first':>8}  {'last':>8}"
    for course, at in zip(drawn, emerged, strict=False):
        for name, z in (("scale", course.z_scale), ("bias", course.z_bias)):
            if z is None:
                continue
            head = (str(course.dim), at) if name == "scale" else ("", "")
            yield (
                f"{head[0]:>9}  {head[1]:{wide}}  {name:9}  "
                f"{sketch(z, width=SKETCH, unicode=unicode):{width}}  {z[0]:>+8.1f}  {z[-1]:>+8.1f}"
            )
    if len(drawn) > DIMENSIONS:
        yield f"and {len(drawn) - DIMENSIONS} more; --json has them all"


def _emerged(course: Course, steps: Sequence[Step]) -> str:
    """Where it emerged; before the first checkpoint nobody looked."""
    if course.emerged is None:
        return "(gone)" if any(course.flagged) else "(never)"
    return _short(steps[course.emerged]) if course.emerged else "at the first"


def _short(step: Step) -> str:
    """Return a step's number; the last 16 letters of its name where it has none."""
    return step.scan.label[-16:] if step.step is None else str(step.step)


def _cut(label: str) -> str:
    return label if len(label) <= LABEL else f"...{label[3 - LABEL :]}"


def _signs(unicode: bool) -> str:
    return f"{legend(unicode=unicode)}; of every step, in the layer where it is furthest out"
