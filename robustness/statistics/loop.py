"""The one stopping loop: evidence grows by a chunk, a statistic decides, until that is enough.

Whatever is decided, on text or on a task, is decided here. What differs between checks is the
evidence (:mod:`robustness.measurement`) and the statistic, which says what the evidence so far
tells; how it is reported, how its history is kept, when it stops, and when it goes back to float32
is the same for all.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from robustness.statistics.decisions import NOTHING_EXCLUDED, Side
from robustness.statistics.figures import HistoryEntry
from robustness.statistics.precision import Precision


class Evidence(Protocol):
    """What was measured so far."""

    @property
    def seen(self) -> int:
        """How many text blocks or examples, over all passes."""

    @property
    def whole(self) -> bool:
        """Whether every text block of the corpus, or example of the task, was among them."""

    @property
    def slack_nats(self) -> tuple[float, ...]:
        """By how much reduced precision widens the interval of each mean, per text block."""


class AnyDecision(Protocol):
    """What the evidence so far says."""

    @property
    def side(self) -> Side | None:
        """On which side of the threshold the number lies; ``None`` while undecided."""

    @property
    def measured(self) -> float:
        """The number that is compared with it."""

    @property
    def interval(self) -> tuple[float, float] | None:
        """What the number may be; ``None`` if it is exact, or is no estimate."""

    @property
    def exact(self) -> bool:
        """Whether the number is the corpus' own."""


E = TypeVar("E", bound=Evidence)
D = TypeVar("D", bound=AnyDecision)
E_co = TypeVar("E_co", bound=Evidence, covariant=True)
D_co = TypeVar("D_co", bound=AnyDecision, covariant=True)
MOST_ENTRIES = 64
"""Decisions that are kept of a verdict."""

Deltas = dict[str, NDArray[np.float64]]


class Statistic(ABC, Generic[E, D]):
    """What growing evidence is asked, made anew for every decision."""

    signed: ClassVar[bool] = False
    """Whether its number is a difference, which people read with its sign."""

    @abstractmethod
    def decide(self, evidence: E) -> D | None:
        """What the evidence says; ``None`` where it is not the time to ask it."""

    def spent(self, evidence: E) -> bool:  # noqa: ARG002
        """Whether more evidence is not to be had, or would not decide."""
        return False

    def most(self, evidence: E) -> int | None:  # noqa: ARG002
        """After how many text blocks or examples it ends; ``None``: after one pass."""
        return None

    def costs(
        self, reduced: Deltas, full: Deltas, tokens: NDArray[np.int64]
    ) -> tuple[Precision, ...]:
        """What reduced precision costs each mean that is decided on.

        ``reduced`` and ``full`` hold the same numbers per text block, by name, in either precision.
        """
        raise NotImplementedError

    def shown(
        self,
        evidence: E,  # noqa: ARG002
        decision: D | None,
    ) -> tuple[str, tuple[float, float] | None]:
        """The number so far in words, and its interval, for whoever waits."""
        if decision is None:
            return "", None
        form = "{:+.4g}" if self.signed else "x{:.4g}"
        return form.format(decision.measured), decision.interval


Grow = Callable[[Statistic[E, Any] | None], Iterator[E]]
"""Evidence, one item per chunk. A statistic that is handed in judges reduced precision by its
``costs``; without one, all is measured in float32."""

Watch = Callable[[int, str, tuple[float, float] | None, int | None], None]
"""Told after every chunk: how much was seen, the number so far, its interval, and after how much it
ends whatever was found."""


@dataclass(frozen=True, kw_only=True)
class Decided(Generic[E_co, D_co]):
    """The last decision, the evidence that it rests on, and the decisions on the way to it."""

    decision: D_co
    evidence: E_co
    history: tuple[HistoryEntry, ...]


def decided(
    statistic: Statistic[E, D], grow: Grow[E], *, exhaustive: bool, watch: Watch
) -> Decided[E, D]:
    """Ask a statistic after every chunk, and stop as soon as it decides.

    It goes on until everything was seen if that is to be ``exhaustive``. Where reduced precision
    leaves the decision open, everything is measured once more in float32.
    """
    for judge in (statistic, None):
        end = _one_pass(statistic, grow(judge), exhaustive=exhaustive, watch=watch)
        if end.decision.side is not None or not any(end.evidence.slack_nats):
            break
    return end


def _one_pass(
    statistic: Statistic[E, D], growing: Iterator[E], *, exhaustive: bool, watch: Watch
) -> Decided[E, D]:
    entries: list[HistoryEntry] = []
    for evidence in growing:
        decision = statistic.decide(evidence)
        number, interval = statistic.shown(evidence, decision)
        if number:
            watch(evidence.seen, number, known(interval), statistic.most(evidence))
        if decision is None:
            continue
        entries.append(_entry(decision, evidence.seen))
        enough = evidence.whole or not exhaustive
        if enough and (decision.side is not None or statistic.spent(evidence)):
            break
    assert decision is not None
    return Decided(decision=decision, evidence=evidence, history=thinned(entries))


def _entry(decision: AnyDecision, seen: int) -> HistoryEntry:
    interval = decision.interval
    return HistoryEntry(
        seen=seen,
        measured=float(decision.measured),
        interval=None if interval is None else (float(interval[0]), float(interval[1])),
        draws=getattr(decision, "draws", None),
    )


def known(interval: tuple[float, float] | None) -> tuple[float, float] | None:
    """The interval if it excludes anything."""
    return None if interval == NOTHING_EXCLUDED else interval


def thinned(
    entries: Sequence[HistoryEntry], *, most: int = MOST_ENTRIES
) -> tuple[HistoryEntry, ...]:
    """The entries that a report shows: all, or as many as it can, first and last included.

    Of many, half are spread evenly and half evenly on a logarithmic scale: an interval narrows most
    at the beginning. None is changed, and which are left out does not depend on their numbers.
    ``most`` is at least 4.
    """
    n = len(entries)
    if n <= most:
        return tuple(entries)
    spread = [
        *np.linspace(0, n - 1, most // 2),
        *(np.geomspace(1, n, most - most // 2) - 1),
    ]
    return tuple(entries[index] for index in sorted({round(float(place)) for place in spread}))
