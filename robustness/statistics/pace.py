"""How long a measurement may still take, from how fast it has been going."""

import time
from collections import deque
from collections.abc import Callable

RECENT = 5
"""Looks whose times count: numbers from the store come at once, measured ones do not."""

SOON_S = 5.0
"""Nobody has to be told of less."""


class Pace:
    """Remembers when how many text blocks of a measurement had been seen, by a monotonic clock."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._of = ""
        self._seen: deque[tuple[float, int]] = deque(maxlen=RECENT)

    def left_s(self, what: str, text_blocks: int, most: int) -> float | None:
        """Seconds until ``most`` text blocks at the recent pace; ``None`` while that is not known.

        A decision may come earlier. Another thing measured begins anew, as does the same from its
        beginning.
        """
        if what != self._of or (self._seen and text_blocks <= self._seen[-1][1]):
            self._of = what
            self._seen.clear()
        self._seen.append((self._clock(), text_blocks))
        (began, first), (now, last) = self._seen[0], self._seen[-1]
        if last == first:
            return None
        return (now - began) / (last - first) * max(0, most - last)

    def line(
        self,
        statement: str,
        seen: int,
        figure: str,
        *,
        interval: tuple[float, float] | None,
        total: int,
        most: int | None,
        unit: str,
    ) -> str:
        """How far a decision has come: numbers first, the line may be cut.

        The figure stands for what was ``seen``, over all passes of ``total`` units. After ``most``
        of them, by default one pass, it ends whatever the figure is.
        """
        passes, place = divmod(seen - 1, total)
        again = f", pass {passes + 1}" if passes else ""
        within = f" ({interval[0]:.3g} to {interval[1]:.3g})" if interval else ""
        left = self.left_s(statement, seen, most or total)
        until = f", at most {in_words(left)} left" if left is not None and left >= SOON_S else ""
        return f"{figure}{within} after {place + 1}/{total} {unit}{again}{until}: {statement}"


def in_words(seconds: float) -> str:
    """``40 s``, ``12 min`` or ``3.5 h``."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
