"""The terminal report: one table per checkpoint after a run."""

import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from robustness.report.cells import COLUMNS, EXPECTED, EXPIRED, RECORDED, row_of
from robustness.report.conclusion import conclusion
from robustness.report.results import CheckpointResult, CheckResult, Report
from robustness.report.terminal.notes import (
    by_layer,
    comparison,
    findings,
    notes,
    profile_rows,
    side_by_side,
)
from robustness.report.words import WIDTH, wrapped
from robustness.runtime.plain import plain

Markup: TypeAlias = Mapping[str, bool]

MARKUP: Mapping[str, Markup] = {
    "pass": {"green": True},
    "fail": {"red": True, "bold": True},
    EXPIRED: {"red": True, "bold": True},
    "error": {"red": True, "bold": True},
    EXPECTED: {"yellow": True},
    "inconclusive": {"yellow": True, "bold": True},
    RECORDED: {"cyan": True},
    "not applicable": {"cyan": True},
}


_NUMBERS = ("measured", "needed", "blocks")
"""Columns that are aligned to the right."""


@dataclass(frozen=True, kw_only=True)
class Line:
    """A line of the terminal."""

    pieces: tuple[tuple[str, Markup], ...]  # its text in parts, each with what pytest calls markup
    is_title: bool = False  # whether it stands in the middle of a rule across the terminal

    @property
    def text(self) -> str:
        """The line without markup."""
        text = "".join(text for text, _ in self.pieces)
        return f" {text} ".center(80, "=") if self.is_title else text


def render(report: Report) -> str:
    """Return the tables as text."""
    return "".join(f"{line.text}\n" for line in lines_of(report))


def lines_of(report: Report, *, verbosity: int = 0) -> Iterator[Line]:
    """Return the tables, and why the run fails if it does.

    Below a verbosity of 0 that is a line per checkpoint and what failed; from 1 on there is what
    each check states and why it came out as it did, from 2 on every layer.
    """
    for checkpoint in report.vetted:
        if verbosity < 0:
            yield from _briefly(checkpoint, report)
            continue
        partial = " (PARTIAL)" if report.partial else ""
        title = plain(f"robustness: {checkpoint.label}{partial}")
        yield Line(pieces=((title, {"bold": True}),), is_title=True)
        yield from _conclusion(checkpoint, report)
        yield from _checkpoint(checkpoint, verbosity)
    if verbosity >= 0:
        yield from map(_line, side_by_side(report.vetted))
    if report.partial and report.vetted:
        yield _line(
            "PARTIAL: some of the planned checks were not selected; this run is no release verdict",
            yellow=True,
            bold=True,
        )
    for problem in report.problems:
        yield _line(plain(f"robustness: {problem}"), red=True, bold=True)


def _briefly(checkpoint: CheckpointResult, report: Report) -> Iterator[Line]:
    yield from _conclusion(checkpoint, report, f"robustness: {checkpoint.label}: ")
    if checkpoint.refused:
        yield from _table(checkpoint.refused, checkpoint.corpus_text_blocks, verbosity=-1)


def _conclusion(checkpoint: CheckpointResult, report: Report, before: str = "") -> Iterator[Line]:
    failing = bool(checkpoint.refused)
    for line in wrapped(f"{before}{conclusion(checkpoint, partial=report.partial)}"):
        yield _line(line, bold=True, red=failing, green=not failing)


def _checkpoint(checkpoint: CheckpointResult, verbosity: int) -> Iterator[Line]:
    yield from _paragraphs(findings(checkpoint))
    if verbosity > 1:
        yield from _paragraphs(by_layer(checkpoint.outliers))
    yield from map(_line, comparison(checkpoint))
    yield _line("")
    yield from _table(checkpoint.checks, checkpoint.corpus_text_blocks, verbosity=verbosity)
    yield from _paragraphs(notes(checkpoint))
    if verbosity > 1:
        yield from _paragraphs(profile_rows(checkpoint.checks))


def _table(checks: Sequence[CheckResult], n_blocks: int, *, verbosity: int) -> Iterator[Line]:
    rows = [COLUMNS, *(row_of(check, n_blocks) for check in checks)]
    for place, lines in enumerate(laid_out(rows)):
        for before, verdict in lines:
            markup = MARKUP.get(verdict, {"bold": True})
            yield Line(pieces=((before, {"bold": place == 0}), (verdict, markup)))
        if verbosity > 0 and place > 0:
            check = checks[place - 1]
            tokens = f"{check.tokens} tokens" if check.tokens else ""
            told = "; ".join(part for part in (check.statement, check.reason, tokens) if part)
            yield from _paragraphs([f"    {told}"])


def _paragraphs(paragraphs: Iterable[str]) -> Iterator[Line]:
    return (_line(line) for paragraph in paragraphs for line in wrapped(paragraph))


def _line(text: str, **markup: bool) -> Line:
    return Line(pieces=((text, markup),))


def laid_out(rows: Sequence[Sequence[str]]) -> list[list[tuple[str, str]]]:
    """Return for each row its lines, each as what stands before the verdict, and the verdict.

    Where a table would be wider than the terminal is, names of checks go on in a second line.
    """
    widths = [max(len(row[column]) for row in rows) for column in range(len(COLUMNS))]
    excess = sum(widths) + 2 * (len(COLUMNS) - 1) - WIDTH
    longest_word = max(len(word) for row in rows for word in row[0].split())
    gap = "  " if widths[0] - longest_word >= excess else " "
    widths[0] = max(longest_word, widths[0] - max(0, excess))
    parts = []
    for row in rows:
        first, *more = textwrap.wrap(row[0], widths[0], break_long_words=False)
        cells = (first, *row[1:-1])
        line = gap.join(
            cell.rjust(width) if column in _NUMBERS else cell.ljust(width)
            for cell, width, column in zip(cells, widths, COLUMNS, strict=False)
        )
        parts.append([(f"{line}{gap}", row[-1]), *((f"  {part}", "") for part in more)])
    return parts
