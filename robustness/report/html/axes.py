"""Axes of the figures: ranges, ticks, and where a value beyond the edge is drawn."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from robustness.report.words import power

FEWEST_TICKS, MOST_TICKS = 4, 7


@dataclass(frozen=True, kw_only=True)
class LogAxis:
    """A logarithmic axis from ``low`` to ``high``, both finite and above 0."""

    low: float
    high: float

    def inside(self, value: float) -> float:
        """Return the value, or the edge behind which it lies (0 and infinities, too)."""
        return min(max(value, self.low), self.high)

    def contains(self, value: float) -> bool:
        """Tell whether the value is drawn where it is."""
        return self.low <= value <= self.high

    @property
    def range(self) -> list[float]:
        """Return the ends as plotly has them: as decimal logarithms."""
        return [math.log10(self.low), math.log10(self.high)]

    @property
    def ticks(self) -> list[float]:
        """Return round values between the ends, at least two."""
        first, last = math.ceil(self.range[0] - 1e-9), math.floor(self.range[1] + 1e-9)
        decades = self.range[1] - self.range[0]
        if decades > 3:
            step = math.ceil((last - first + 1) / MOST_TICKS)
            start = first + (-first) % step  # so that 1 is among them
            return [10.0**exponent for exponent in range(start, last + 1, step)]
        for multiples in ((1, 3), (1, 2, 5), (1, 1.5, 2, 3, 5, 7)):
            ticks = [m * 10.0**e for e in range(first - 1, last + 1) for m in multiples]
            inside = [value for value in ticks if self.contains(value)]
            if len(inside) >= FEWEST_TICKS:
                return inside
        return self._even_ticks()

    def _even_ticks(self) -> list[float]:
        span = self.high - self.low
        scale = 10.0 ** math.floor(math.log10(span))
        step = next(s * scale for s in (0.1, 0.2, 0.5, 1.0, 2.0) if span / (s * scale) <= 6)
        first = math.ceil(self.low / step - 1e-9)
        return [n * step for n in range(first, math.floor(self.high / step + 1e-9) + 1)]

    def labels(self, values: Sequence[float], *, sign: str = "×") -> list[str]:
        """Return what stands at the ticks."""
        return [sign + _tick(value) for value in values]


def _tick(value: float) -> str:
    exponent = round(math.log10(value))
    whole = math.isclose(value, 10.0**exponent)
    if whole and not -3 <= exponent <= 3:
        return power(exponent)
    return f"{value:,.4g}" if value < 1000 else f"{value:,.0f}"


def log_axis(values: Iterable[float], *, margin: float = 0.06) -> LogAxis:
    """Return an axis that holds all finite values above 0, and 1, with room at both ends."""
    logs = [math.log10(v) for v in (1.0, *values) if math.isfinite(v) and v > 0]
    low, high = min(logs), max(logs)
    room = max(margin * (high - low), 0.01)
    return LogAxis(low=10 ** max(low - room, -300.0), high=10 ** min(high + room, 300.0))
