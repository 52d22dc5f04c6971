"""Numbers, lists and lines in words, as the terminal's reports write them."""

import math
import textwrap
from collections.abc import Sequence

from robustness.runtime.plain import plain

WIDTH = 100
"""Of lines of text."""
DIMENSIONS = 16
"""Listed at most; the JSON report has them all."""


def wrapped(line: str) -> list[str]:
    """A line in pieces that fit the width, indented more from the second on.

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
    """A few dimensions; the JSON report has them all."""
    shown = ", ".join(map(str, dims[:DIMENSIONS])) or "none"
    return f"{shown} and {len(dims) - DIMENSIONS} more" if len(dims) > DIMENSIONS else shown


def amount(n: int) -> str:
    """``110 M``."""
    for size, unit in ((10**9, "B"), (10**6, "M"), (10**3, "k")):
        if n >= size:
            return f"{n / size:.3g} {unit}"
    return str(n)


def ranges(numbers: Sequence[int]) -> str:
    """``0-3, 5``."""
    parts: list[list[int]] = []
    for number in numbers:
        if parts and number == parts[-1][-1] + 1:
            parts[-1][1:] = [number]
        else:
            parts.append([number])
    return ", ".join("-".join(map(str, part)) for part in parts)


def in_short(dims: Sequence[int]) -> str:
    """One or two of them, or how many there are."""
    return ", ".join(map(str, dims)) if len(dims) <= 2 else f"{len(dims)} dims"


def bound(value: float | str) -> str:
    """An end of an interval."""
    number = float(value)
    return f"{number:.1e}" if 0 < number < 1e-2 else f"{number:.4g}"


def figure(value: float | str) -> str:
    """Four digits."""
    number = float(value)
    if math.isinf(number):
        return "inf"
    return f"{number:.4g}" if not number or 1e-3 <= abs(number) < 1e5 else f"{number:.2e}"


def chance(expected: float | None) -> str:
    """How many dimensions a rule would flag by chance."""
    return "not defined" if expected is None else f"{expected:.2g}"


def check_name(test: str) -> str:
    """``ablation degrades`` of ``test_ablation_degrades``."""
    return test.removeprefix("test_").replace("_", " ")
