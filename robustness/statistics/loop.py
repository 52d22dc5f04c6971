"""The one stopping loop: evidence grows by a chunk, a statistic decides, until that is enough.

Whatever is decided, on text or on a task, is decided here. What differs between checks is the
evidence (:mod:`robustness.measurement`) and the statistic, which says what the evidence so far
tells; how it is reported, how its history is kept, when it stops, and when it goes back to float32
is the same for all.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from robustness.statistics.decisions import NOTHING_EXCLUDED, Decision
from robustness.statistics.figures import HistoryEntry, PrecisionCost, PrecisionFigures

MOST_ENTRIES = 64
"""Decisions that are kept of a verdict."""

Columns = Mapping[str, NDArray[Any]]
"""Numbers per text block or example, in the order of measurement, by name; shapes (n,)."""


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """What was measured so far.

    Attributes:
        total: text blocks of the corpus, or examples of the task.
        columns: over all passes. Of text: ``tokens`` scored, the intact model's ``nll`` in nats,
            and what interventions add to it, whose names begin with ``delta``.
        precision: behind the first text blocks, where there is a choice.
        draws: random draws that have been measured on all their text blocks.
    """

    total: int
    columns: Columns = field(default_factory=dict)
    precision: PrecisionFigures | None = None
    draws: int = 0

    def __getitem__(self, name: str) -> NDArray[Any]:
        return self.columns[name]

    @property
    def seen(self) -> int:
        """How many text blocks or examples, over all passes."""
        return max(map(len, self.columns.values()), default=0)

    @property
    def whole(self) -> bool:
        """Whether every text block of the corpus, or example of the task, was among them."""
        return self.seen >= self.total

    @property
    def once(self) -> "Evidence":
        """Each text block or example in the first pass alone."""
        columns = {name: column[: self.total] for name, column in self.columns.items()}
        return replace(self, columns=columns)

    @property
    def slack_nats(self) -> tuple[float, ...]:
        """By how much reduced precision widens the interval of each mean, per text block."""
        return (0.0,) if self.precision is None else self.precision.slack_nats

    @property
    def deltas(self) -> list[NDArray[Any]]:
        """What each intervention adds to the intact model's NLL, in nats."""
        return [column for name, column in self.columns.items() if name.startswith("delta")]

    @property
    def mean_nll_nats(self) -> float:
        """ΣNLL / Σtokens of the intact model in the first pass; the logarithm of perplexity."""
        first = slice(self.total)
        return float(self["nll"][first].sum() / self["tokens"][first].sum())

    def per_draw(self, name: str) -> NDArray[Any]:
        """The sums of a column over the text blocks of each complete draw, shape (draws,)."""
        complete = self["draw"] < self.draws
        sums = np.zeros(self.draws, dtype=self[name].dtype)
        np.add.at(sums, self["draw"][complete], self[name][complete])
        return sums

    def grown(self, **parts: NDArray[Any]) -> "Evidence":
        """With more numbers in some columns, which may be new."""
        longer = {
            name: np.concatenate([self.columns[name], part]) if name in self.columns else part
            for name, part in parts.items()
        }
        return replace(self, columns={**self.columns, **longer})


D = TypeVar("D", bound=Decision)
D_co = TypeVar("D_co", bound=Decision, covariant=True)


class Statistic(ABC, Generic[D]):
    """What growing evidence is asked, made anew for every decision."""

    signed: ClassVar[bool] = False
    """Whether its number is a difference, which people read with its sign."""

    @abstractmethod
    def decide(self, evidence: Evidence) -> D | None:
        """What the evidence says; ``None`` where it is not the time to ask it."""

    def spent(self, evidence: Evidence) -> bool:  # noqa: ARG002
        """Whether more evidence is not to be had, or would not decide."""
        return False

    def most(self, evidence: Evidence) -> int | None:  # noqa: ARG002
        """After how many text blocks or examples it ends; ``None``: after one pass."""
        return None

    def costs(self, reduced: Columns, full: Columns) -> tuple[PrecisionCost, ...]:
        """What reduced precision costs each mean, from the same columns in either precision."""
        raise NotImplementedError

    def shown(
        self,
        evidence: Evidence,  # noqa: ARG002
        decision: D | None,
    ) -> tuple[str, tuple[float, float] | None]:
        """The number so far in words, and its interval, for whoever waits."""
        if decision is None:
            return "", None
        form = "{:+.4g}" if self.signed else "x{:.4g}"
        return form.format(decision.measured), decision.interval


@dataclass(kw_only=True)
class Compared(Statistic[D], Generic[D]):
    """A statistic that is compared with a threshold at an error probability."""

    threshold: float
    alpha: float


Judge = Statistic[Any] | None
"""Judges by its ``costs`` whether reduced precision may be used; without one, all is float32."""

Grow = Callable[[Judge], Iterator[Evidence]]
"""Evidence, one item per chunk."""

Watch = Callable[[int, str, tuple[float, float] | None, int | None], None]
"""Told after every chunk: how much was seen, the number so far, its interval, and after how much it
ends whatever was found."""


@dataclass(frozen=True, kw_only=True)
class Decided(Generic[D_co]):
    """The last decision, the evidence that it rests on, and the decisions on the way to it."""

    decision: D_co
    evidence: Evidence
    history: tuple[HistoryEntry, ...]


def decided(statistic: Statistic[D], grow: Grow, *, exhaustive: bool, watch: Watch) -> Decided[D]:
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
    statistic: Statistic[D], growing: Iterator[Evidence], *, exhaustive: bool, watch: Watch
) -> Decided[D]:
    entries: list[HistoryEntry] = []
    for evidence in growing:
        decision = statistic.decide(evidence)
        number, interval = statistic.shown(evidence, decision)
        if number:
            watch(evidence.seen, number, known(interval), statistic.most(evidence))
        if decision is None:
            continue
        entries.append(
            HistoryEntry(
                seen=evidence.seen,
                measured=float(decision.measured),
                interval=decision.ends,
                draws=decision.draws,
            )
        )
        enough = evidence.whole or not exhaustive
        if enough and (decision.side is not None or statistic.spent(evidence)):
            break
    assert decision is not None
    return Decided(decision=decision, evidence=evidence, history=thinned(entries))


def known(interval: tuple[float, float] | None) -> tuple[float, float] | None:
    """The interval if it excludes anything."""
    return None if interval == NOTHING_EXCLUDED else interval


def thinned(
    entries: Sequence[HistoryEntry], *, most: int = MOST_ENTRIES
) -> tuple[HistoryEntry, ...]:
    """The entries that a report shows: all, or as many as it can, first and last included.

    Of many, half are spread evenly and half evenly on a logarithmic scale: an interval narrows most
    at the beginning. Which are left out does not depend on their numbers. ``most`` is at least 4.
    """
    n = len(entries)
    if n <= most:
        return tuple(entries)
    spread = [
        *np.linspace(0, n - 1, most // 2),
        *(np.geomspace(1, n, most - most // 2) - 1),
    ]
    return tuple(entries[index] for index in sorted({round(float(place)) for place in spread}))
