"""What ``robustness scan`` shows: rules, and a sketch over layers of every dimension they found."""

from collections.abc import Iterator, Sequence

from robustness.outliers.scanning import Finding, Scan, comparable
from robustness.report.terminal.sketch import legend, per_sign, sketch
from robustness.report.words import WIDTH, chance, listed, wrapped
from robustness.runtime.plain import plain

NAMES = 18
"""Width of the first column side by side."""
COLUMN = 25
"""Width of a checkpoint's column side by side."""
SMALL_SKETCH = 16
KINDS = {
    "norm": "output norms",
    "writer": "output writers",
    "reader": "reading norms",
}
BEYOND = 3.0
"""Standard deviations; what the rules ask for by default."""


def lines_of(scans: Sequence[Scan], *, unicode: bool) -> list[str]:
    """Return the report in lines of at most 100 columns; bars need a ``unicode`` terminal."""
    shown = comparable(scans)
    lines: list[str] = []
    for scan in scans:
        lines += [*_checkpoint(scan, shown[scan.label], unicode=unicode), ""]
    if len(scans) > 1:
        lines += [*_side_by_side(scans, shown, unicode=unicode), ""]
    if any(shown.values()):
        lines += wrapped(legend(unicode=unicode))
    return [line.rstrip() for line in lines]


def _checkpoint(scan: Scan, dims: Sequence[int], *, unicode: bool) -> Iterator[str]:
    at = f" at {scan.revision[:12]}" if scan.revision else ""
    yield from wrapped(f"{scan.label}: {scan.reference}{at}")
    stack = "" if scan.stack == "only" else f" in the {scan.stack}"
    kind = KINDS[scan.kind]
    shared = ", one for all layers" if scan.distinct_sites == 1 < scan.layers else ""
    yield from wrapped(
        f"  {scan.architecture}, {scan.layers} layers x {scan.hidden_size}{stack}; read: "
        f"{kind}{shared}, {'scale' if scan.z_bias is None else 'scale and bias'}"
    )
    for note in scan.notes:
        yield from wrapped(f"  note: {note}")
    for number, finding in enumerate(scan.findings, 1):
        yield from wrapped(f"  [{number}] {_found(finding)}")
    if not dims:
        return
    yield ""
    cells = per_sign(scan.layers)
    title = f"layers 0 to {scan.layers - 1}" + (f", {cells} a sign" if cells > 1 else "")
    width = max(len(title), -(-scan.layers // cells))
    yield f"dimension  parameter  {title:{width}}  {'largest':>8}  {'layer':>5}  beyond 3  rules"
    for dim in dims:
        numbers = [str(n) for n, f in enumerate(scan.findings, 1) if dim in f.dims]
        rules = " ".join(numbers) or "-"
        for name, z in (("scale", scan.scale_of(dim)), ("bias", scan.bias_of(dim))):
            if z is None:
                continue
            layer = max(range(len(z)), key=lambda n: abs(z[n]))
            beyond = f"{sum(abs(value) > BEYOND for value in z)} of {len(z)}"
            first = str(dim) if name == "scale" else ""
            yield (
                f"{first:>9}  {name:9}  {sketch(z, unicode=unicode):{width}}  {z[layer]:>+8.1f}  "
                f"{layer:>5}  {beyond:8}  {rules if name == 'scale' else ''}"
            )


def _found(finding: Finding) -> str:
    detection = finding.detection
    if detection is None:
        return f"{finding.rule}: says nothing: {finding.reason}"
    arguments = detection.rule.partition(": ")[2]
    by_chance = chance(detection.by_chance)
    return f"{finding.rule}: {listed(finding.dims)} ({arguments}; by chance {by_chance})"


def _side_by_side(
    scans: Sequence[Scan], shown: dict[str, tuple[int, ...]], *, unicode: bool
) -> Iterator[str]:
    """Set as many checkpoints beside each other as fit, then the next ones."""
    fit = (WIDTH - NAMES) // (COLUMN + 2)
    for start in range(0, len(scans), fit):
        part = scans[start : start + fit]
        yield _row("side by side", [scan.label for scan in part])
        yield _row("layers x width", [f"{scan.layers} x {scan.hidden_size}" for scan in part])
        for rule in [finding.rule for finding in part[0].findings]:
            yield _row(rule, [_cell(scan, rule) for scan in part])
        if len({scan.shape for scan in part}) == 1 < _alike(part[0], scans):
            for dim in shown[part[0].label]:
                yield _row(f"scale of {dim}", [_small(scan, dim, unicode=unicode) for scan in part])
        if start + fit < len(scans):
            yield ""
    if any(_alike(scan, scans) > 1 for scan in scans):
        yield from wrapped(
            "The same index is the same feature only where one checkpoint was made from the "
            "other, or both from a third."
        )


def _alike(scan: Scan, scans: Sequence[Scan]) -> int:
    return sum(other.shape == scan.shape for other in scans)


def _row(name: str, cells: Sequence[str]) -> str:
    return "  ".join([f"{name[:NAMES]:{NAMES}}", *(f"{_cut(cell):{COLUMN}}" for cell in cells)])


def _cut(text: str) -> str:
    text = plain(text)
    return text if len(text) <= COLUMN else f"{text[: COLUMN - 3]}..."


def _cell(scan: Scan, rule: str) -> str:
    finding = next(finding for finding in scan.findings if finding.rule == rule)
    if finding.detection is None:
        return "says nothing"
    dims = list(map(str, finding.dims))
    for kept in range(len(dims), 0, -1):
        more = f" and {len(dims) - kept} more" if kept < len(dims) else ""
        if len(text := ", ".join(dims[:kept]) + more) <= COLUMN:
            return text
    return f"{len(dims)} dimensions" if dims else "none"


def _small(scan: Scan, dim: int, *, unicode: bool) -> str:
    z = scan.scale_of(dim)
    return f"{sketch(z, width=SMALL_SKETCH, unicode=unicode)} {max(z, key=abs):+.1f}"
