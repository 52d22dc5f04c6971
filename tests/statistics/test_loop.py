"""The stopping loop, on evidence that is only counted."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import numpy as np
import pytest

from robustness.statistics.decisions import NOTHING_EXCLUDED, Decision, Side
from robustness.statistics.figures import HistoryEntry, PrecisionCost, PrecisionFigures
from robustness.statistics.loop import (
    MOST_ENTRIES,
    Decided,
    Evidence,
    Statistic,
    decided,
    known,
    thinned,
)

TOTAL = 160

Told = tuple[int, str, tuple[float, float] | None, int | None]


def counted(seen: int, *, slack_nats: float = 0.0) -> Evidence:
    """Evidence of as many text blocks; what reduced precision costs their only mean."""
    costs = (PrecisionCost(slack_nats=slack_nats, distance_nats=1.0),)
    precision = PrecisionFigures(dtype="bfloat16", costs=costs)
    return Evidence(total=TOTAL, columns={"tokens": np.ones(seen)}, precision=precision)


@dataclass(kw_only=True)
class Stub(Statistic[Decision]):
    """Takes a side after some text blocks, and is asked nothing before others.

    Attributes:
        sided: text blocks after which it takes one.
        asked_from: text blocks before which it is not asked.
        spent_at: text blocks after which it is spent.
        open_if_reduced: whether reduced precision leaves it open.
    """

    sided: float = math.inf
    asked_from: int = 0
    spent_at: float = math.inf
    open_if_reduced: bool = False
    asked: list[int] = field(default_factory=list)

    def decide(self, evidence: Evidence) -> Decision | None:
        self.asked.append(evidence.seen)
        if evidence.seen < self.asked_from:
            return None
        is_open = self.open_if_reduced and any(evidence.slack_nats)
        side: Side | None = "below" if evidence.seen >= self.sided and not is_open else None
        ends = NOTHING_EXCLUDED if evidence.seen < 32 else (0.5, 1.0 + 16 / evidence.seen)
        return Decision(
            side=side, measured=1 + 1 / evidence.seen, interval=ends, seen=evidence.seen
        )

    def spent(self, evidence: Evidence) -> bool:
        return evidence.seen >= self.spent_at

    def most(self, evidence: Evidence) -> int:  # noqa: ARG002
        return 999


@dataclass(kw_only=True)
class Growing:
    """Makes evidence, and remembers with which judges and how far it was asked for.

    Attributes:
        endless: whether it goes on behind the corpus' end.
        slack_nats: in reduced precision.
    """

    endless: bool = False
    slack_nats: float = 0.0
    judges: list[object] = field(default_factory=list)
    made: list[int] = field(default_factory=list)

    def __call__(self, judge: Statistic[Decision] | None) -> Iterator[Evidence]:
        self.judges.append(judge)
        seen = 0
        while self.endless or seen < TOTAL:
            seen += 16
            self.made.append(seen)
            reduced = judge is not None and seen > 32
            yield counted(seen, slack_nats=self.slack_nats if reduced else 0.0)


def loop(
    statistic: Stub, grow: Growing, *, exhaustive: bool = False
) -> tuple[Decided[Decision], list[Told]]:
    told: list[Told] = []

    def watch(
        seen: int, number: str, interval: tuple[float, float] | None, most: int | None
    ) -> None:
        told.append((seen, number, interval, most))

    return decided(statistic, grow, exhaustive=exhaustive, watch=watch), told


def test_it_stops_as_soon_as_a_side_is_taken() -> None:
    grow = Growing()
    end, _ = loop(Stub(sided=64), grow)
    assert end.decision.side == "below"
    assert end.evidence.seen == 64
    assert grow.made == [16, 32, 48, 64]  # nothing behind it was measured
    assert [entry.seen for entry in end.history] == grow.made


def test_exhaustive_goes_on_until_all_was_seen() -> None:
    grow = Growing(endless=True)
    statistic = Stub(sided=64)
    end, _ = loop(statistic, grow, exhaustive=True)
    assert end.evidence.seen == TOTAL == grow.made[-1]
    assert statistic.asked == grow.made == list(range(16, TOTAL + 1, 16))
    assert len(end.history) == 10


def test_exhaustive_evidence_without_a_side_goes_on_behind_the_corpus_end() -> None:
    """As the random control does, whose draws do not end with a pass."""
    end, _ = loop(Stub(sided=2 * TOTAL), Growing(endless=True), exhaustive=True)
    assert (end.evidence.seen, end.decision.side) == (2 * TOTAL, "below")


@pytest.mark.parametrize(("exhaustive", "seen"), [(False, 48), (True, TOTAL)])
def test_a_spent_statistic_ends_it_undecided(exhaustive: bool, seen: int) -> None:
    end, _ = loop(Stub(spent_at=40), Growing(endless=True), exhaustive=exhaustive)
    assert end.decision.side is None
    assert end.evidence.seen == seen


def test_the_end_of_the_evidence_ends_it_undecided() -> None:
    grow = Growing()
    statistic = Stub()
    end, _ = loop(statistic, grow)
    assert (end.decision.side, end.evidence.seen) == (None, TOTAL)
    assert grow.judges == [statistic]


def test_what_reduced_precision_leaves_open_is_measured_once_more_in_float32() -> None:
    grow = Growing(slack_nats=0.1)
    statistic = Stub(sided=64, open_if_reduced=True)
    end, told = loop(statistic, grow)
    assert grow.judges == [statistic, None]
    assert grow.made == [*range(16, TOTAL + 1, 16), 16, 32, 48, 64]
    assert end.decision.side == "below"
    assert end.evidence.slack_nats == (0.0,)
    assert [entry.seen for entry in end.history] == [16, 32, 48, 64]  # of the last time alone
    assert [seen for seen, *_ in told] == grow.made


def test_it_goes_back_to_float32_once_and_not_again() -> None:
    grow = Growing(slack_nats=0.1)
    end, _ = loop(Stub(), grow)
    assert len(grow.judges) == 2
    assert end.decision.side is None


def test_a_side_that_reduced_precision_allows_is_final() -> None:
    grow = Growing(slack_nats=0.1)
    end, _ = loop(Stub(sided=64), grow)
    assert len(grow.judges) == 1
    assert end.evidence.slack_nats == (0.1,)


def test_whoever_waits_is_told_after_every_chunk() -> None:
    _, told = loop(Stub(sided=48), Growing())
    assert told == [
        (16, "x1.062", None, 999),  # nothing is excluded yet
        (32, "x1.031", (0.5, 1.5), 999),
        (48, "x1.021", (0.5, 1 + 1 / 3), 999),
    ]


def test_a_difference_is_told_with_its_sign() -> None:
    class Signed(Stub):
        signed = True

    _, told = loop(Signed(sided=16), Growing())
    assert told == [(16, "+1.062", None, 999)]


def test_what_was_not_asked_is_neither_told_nor_kept() -> None:
    end, told = loop(Stub(sided=64, asked_from=40), Growing())
    assert [seen for seen, *_ in told] == [entry.seen for entry in end.history] == [48, 64]


def test_what_a_statistic_shows_without_a_decision_is_told() -> None:
    class Talking(Stub):
        def shown(
            self, evidence: Evidence, decision: Decision | None
        ) -> tuple[str, tuple[float, float] | None]:
            return f"{evidence.seen} {'open' if decision is None else 'asked'}", None

    end, told = loop(Talking(sided=32, asked_from=32), Growing())
    assert [number for _, number, *_ in told] == ["16 open", "32 asked"]
    assert [entry.seen for entry in end.history] == [32]


def test_a_long_history_is_thinned_and_ends_with_the_decision() -> None:
    n = 16 * 1000
    end, told = loop(Stub(sided=n), Growing(endless=True))
    assert len(told) == 1000
    assert len(end.history) <= MOST_ENTRIES
    last = end.history[-1]
    assert (last.seen, last.measured) == (n, end.decision.measured)
    assert last.interval == end.decision.interval
    entries = [HistoryEntry(seen=seen, measured=1 + 1 / seen) for seen, *_ in told]
    assert [entry.seen for entry in end.history] == [entry.seen for entry in thinned(entries)]


def test_what_excludes_nothing_is_kept_as_that() -> None:
    end, _ = loop(Stub(sided=32), Growing())
    assert end.history[0].interval == NOTHING_EXCLUDED
    assert known(NOTHING_EXCLUDED) is None
    assert known((0.0, 2.0)) == (0.0, 2.0)
    assert known(None) is None


def test_draws_are_kept_where_they_are_what_is_compared() -> None:
    class OfDraws(Stub):
        def decide(self, evidence: Evidence) -> Decision | None:
            found = super().decide(evidence)
            return found and replace(found, draws=evidence.seen // 4)

    end, _ = loop(OfDraws(sided=32), Growing())
    assert [entry.draws for entry in end.history] == [4, 8]
    plain, _ = loop(Stub(sided=32), Growing())
    assert [entry.draws for entry in plain.history] == [None, None]
