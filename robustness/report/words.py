"""Numbers, dimensions and lines in words: what every format writes alike."""

import math
import textwrap
from collections.abc import Sequence

from robustness.runtime.plain import plain

WIDTH = 100
"""Of lines of text."""
DIMENSIONS = 16
"""Listed at most; the JSON report has them all."""

_SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def wrapped(line: str) -> list[str]:
    """Return a line in pieces that fit the width, indented more from the second on.

    What has no spaces, like a path, stays whole. No name in it can be more than text.
    """
    indent = line[: len(line) - len(line.lstrip())]
    lines = textwrap.wrap(
        line.strip(),
        WIDTH,
        initial_indent=indent,
        subsequent_indent=f"{indent}  ",
        break_long_words=False,
        break_on_hyphens=False,
    )
    return [plain(line, limit=None) for line in lines]


def listed(dims: Sequence[int]) -> str:
    """Return a few dimensions; the JSON report has them all."""
    shown = ", ".join(map(str, dims[:DIMENSIONS])) or "none"
    return f"{shown} and {len(dims) - DIMENSIONS} more" if len(dims) > DIMENSIONS else shown


def named(dims: Sequence[int]) -> str:
    """Return ``dimension 3`` or ``dimensions 3, 5``, with all of them."""
    return f"dimension{'s' * (len(dims) > 1)} {', '.join(map(str, dims))}"


def in_short(dims: Sequence[int]) -> str:
    """Return one or two of them, or how many there are."""
    return ", ".join(map(str, dims)) if len(dims) <= 2 else f"{len(dims)} dims"


def ranges(numbers: Sequence[int], dash: str = "-") -> str:
    """Return ``0-3, 5``."""
    parts: list[list[int]] = []
    for number in numbers:
        if parts and number == parts[-1][-1] + 1:
            parts[-1][1:] = [number]
        else:
            parts.append([number])
    return ", ".join(dash.join(map(str, part)) for part in parts)


def counted(n: int, noun: str) -> str:
    """Return ``3 checks``."""
    return f"{n} {noun}{'s' * (n != 1)}"


def amount(n: int) -> str:
    """Return ``110 M``."""
    for size, unit in ((10**9, "B"), (10**6, "M"), (10**3, "k")):
        if n >= size:
            return f"{n / size:.3g} {unit}"
    return str(n)


def bound(value: float) -> str:
    """Return an end of an interval in ASCII."""
    return f"{value:.1e}" if 0 < value < 1e-2 else f"{value:.4g}"


def figure(value: float) -> str:
    """Return four digits in ASCII: ``1.205``, ``1.52e+06``, ``inf``."""
    if math.isinf(value):
        return "inf"
    return f"{value:.4g}" if not value or 1e-3 <= abs(value) < 1e5 else f"{value:.2e}"


def number(value: float | None) -> str:
    """Return four digits for pages: ``1.205``, ``64,810``, ``1.52×10⁶``, ``∞``."""
    if value is None:
        return "–"
    if math.isnan(value):
        return "not a number"
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    size = abs(value)
    if value == 0 or 1e-4 <= size < 1e6:
        text = f"{value:,.0f}" if size >= 1000 else f"{value:.4g}"
        return text.replace("-", "−")
    mantissa, _, exponent = f"{value:.2e}".partition("e")
    return f"{mantissa.replace('-', '−')}×{power(int(exponent))}"


def power(exponent: int) -> str:
    """Return ``10⁻³``."""
    return f"10{str(exponent).translate(_SUPERSCRIPTS)}"


def furthest(z: Sequence[float]) -> str:
    """Return the distance farthest from the mean with its sign."""
    return f"{max(z, key=abs):+.1f}" if z else "–"


def chance(expected: float | None) -> str:
    """Return how many dimensions a rule would flag by chance."""
    return "not defined" if expected is None else f"{expected:.2g}"
