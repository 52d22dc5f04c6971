"""What was found in one tensor or layer, and the same of several layers in one phrase."""

from collections.abc import Iterable
from dataclasses import dataclass

from robustness.statistics.location import numbered

BROKEN, GRAVE, PARTLY, EVERYWHERE = range(4)
"""How much a finding explains, the most first."""


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One phrase about one place.

    Attributes:
        rank: how much it explains.
        text: the phrase, without the layer.
        stack: what stands before the layer's number in names.
        layer: the layer's number; None where the phrase names its place itself.
    """

    rank: int
    text: str
    stack: str = ""
    layer: int | None = None


def phrases(findings: Iterable[Finding], usual_stack: str) -> tuple[str, ...]:
    """All of them, the gravest first; those that differ in the layer alone as one."""
    alike: dict[tuple[int, str, str], list[int]] = {}
    for each in findings:
        layers = alike.setdefault((each.rank, each.text, each.stack), [])
        layers += [] if each.layer is None else [each.layer]
    return tuple(
        text
        + (f" in {numbered('layer', sorted(layers))}" if layers else "")
        + (f" of {stack.rstrip('.')}" if stack not in ("", usual_stack) else "")
        for (_, text, stack), layers in sorted(alike.items(), key=lambda item: item[0][0])
    )
