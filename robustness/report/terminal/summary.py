"""The terminal report: one table per checkpoint after a run."""

import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

from robustness.report.cells import COLUMNS, EXPECTED, EXPIRED, row_of
from robustness.report.results import CheckpointResult, CheckResult, Report
from robustness.report.terminal.notes import by_layer, comparison, findings, notes, profile_rows
from robustness.report.words import WIDTH, wrapped
from robustness.runtime.plain import encodable, plain

MARKUP: Mapping[str, Mapping[str, bool]] = {
    "pass": {"green": True},
    "fail": {"red": True, "bold": True},
    EXPIRED: {"red": True, "bold": True},
    "error": {"red": True, "bold": True},
    EXPECTED: {"yellow": True},
    "inconclusive": {"yellow": True, "bold": True},
    "not applicable": {"cyan": True},
}


class Writer(Protocol):
    """The part of pytest's terminal reporter that is used here."""

    def write_sep(self, sep: str, title: str | None = None, **markup: bool) -> None:
        """Write a line across the terminal."""

    def write_line(self, line: str | bytes, **markup: bool) -> None:
        """Write a line."""

    def write(self, content: str, *, flush: bool = False, **markup: bool) -> None:
        """Write a piece of a line."""


class Encoded:
    """A writer for a stream that may lack letters: it gets what its encoding has.

    Args:
        writer: writes to the stream.
        encoding: of the stream.
    """

    def __init__(self, writer: Writer, encoding: str | None) -> None:
        self._writer = writer
        self._encoding = encoding

    def write_sep(self, sep: str, title: str | None = None, **markup: bool) -> None:
        """Write a line across the terminal."""
        title = None if title is None else encodable(title, self._encoding)
        self._writer.write_sep(sep, title, **markup)

    def write_line(self, line: str | bytes, **markup: bool) -> None:
        """Write a line."""
        text = line.decode() if isinstance(line, bytes) else line
        self._writer.write_line(encodable(text, self._encoding), **markup)

    def write(self, content: str, *, flush: bool = False, **markup: bool) -> None:
        """Write a piece of a line."""
        self._writer.write(encodable(content, self._encoding), flush=flush, **markup)


class Plain:
    """A writer that keeps the text; nothing in it has a colour."""

    def __init__(self) -> None:
        self.text = ""

    def write_sep(self, sep: str, title: str | None = None, **markup: bool) -> None:
        """Write a line across the terminal."""
        del markup
        self.text += f" {title} ".center(80, sep) + "\n"

    def write_line(self, line: str | bytes, **markup: bool) -> None:
        """Write a line."""
        del markup
        self.text += f"{line.decode() if isinstance(line, bytes) else line}\n"

    def write(self, content: str, *, flush: bool = False, **markup: bool) -> None:
        """Write a piece of a line."""
        del flush, markup
        self.text += content


def render(report: Report) -> str:
    """The tables as text."""
    kept = Plain()
    write_summary(kept, report)
    return kept.text


def write_summary(writer: Writer, report: Report, *, verbosity: int = 0) -> None:
    """The tables, and why the run fails if it does.

    Args:
        writer: where to.
        report: of the run.
        verbosity: below 0 a line per checkpoint, and what failed; from 1 on what each check states
            and why it came out as it did; from 2 on every layer.
    """
    for checkpoint in report.vetted:
        if verbosity < 0:
            _write_briefly(writer, checkpoint)
            continue
        partial = " (PARTIAL)" if report.partial else ""
        writer.write_sep("=", plain(f"robustness: {checkpoint.label}{partial}"), bold=True)
        _write_checkpoint(writer, checkpoint, verbosity)
    if report.partial and report.vetted:
        writer.write_line(
            "PARTIAL: some of the planned checks were not selected; this run is no release verdict",
            yellow=True,
            bold=True,
        )
    for problem in report.problems:
        writer.write_line(plain(f"robustness: {problem}"), red=True, bold=True)


def _write_briefly(writer: Writer, checkpoint: CheckpointResult) -> None:
    """A line, and the rows of the checks that fail the run."""
    n, failing = len(checkpoint.checks), checkpoint.refused
    verdict = "FAILED" if failing else "passed"
    for line in wrapped(
        f"robustness: {checkpoint.label} {verdict}: {n - len(failing)} of {n} checks accepted"
    ):
        writer.write_line(line, bold=True, red=bool(failing), green=not failing)
    if failing:
        _write_table(writer, failing, checkpoint.corpus_text_blocks, verbosity=-1)


def _write_checkpoint(writer: Writer, checkpoint: CheckpointResult, verbosity: int) -> None:
    for paragraph in findings(checkpoint):
        for line in wrapped(paragraph):
            writer.write_line(line)
    if verbosity > 1:
        _write(writer, by_layer(checkpoint.outliers))
    for line in comparison(checkpoint):
        writer.write_line(line)
    writer.write_line("")
    _write_table(writer, checkpoint.checks, checkpoint.corpus_text_blocks, verbosity=verbosity)
    _write(writer, notes(checkpoint))
    if verbosity > 1:
        _write(writer, profile_rows(checkpoint.checks))


def _write_table(
    writer: Writer, checks: Sequence[CheckResult], n_blocks: int, *, verbosity: int
) -> None:
    rows = [COLUMNS, *(row_of(check, n_blocks) for check in checks)]
    for place, lines in enumerate(laid_out(rows)):
        for before, verdict in lines:
            writer.write(before, bold=place == 0)
            writer.write_line(verdict, **MARKUP.get(verdict, {"bold": True}))
        if verbosity > 0 and place > 0:
            _write(writer, [f"    {_stated(checks[place - 1])}"])


def _stated(check: CheckResult) -> str:
    tokens = f"{check.tokens} tokens" if check.tokens else ""
    return "; ".join(part for part in (check.statement, check.reason, tokens) if part)


def _write(writer: Writer, paragraphs: Iterable[str]) -> None:
    for paragraph in paragraphs:
        for line in wrapped(paragraph):
            writer.write_line(line)


def laid_out(rows: Sequence[Sequence[str]]) -> list[list[tuple[str, str]]]:
    """For each row its lines, each as what stands before the verdict, and the verdict.

    Where a table would be wider than the terminal is, names of checks go on in a second line.
    """
    widths = [max(len(row[column]) for row in rows) for column in range(len(COLUMNS))]
    excess = sum(widths) + 2 * (len(COLUMNS) - 1) - WIDTH
    longest_word = max(len(word) for row in rows for word in row[0].split())
    gap = "  " if widths[0] - longest_word >= excess else " "
    widths[0] = max(longest_word, widths[0] - max(0, excess))
    found = []
    for row in rows:
        first, *more = textwrap.wrap(row[0], widths[0], break_long_words=False)
        cells = (first, *row[1:-1])
        line = gap.join(_aligned(cell, widths[i], i) for i, cell in enumerate(cells))
        found.append([(f"{line}{gap}", row[-1]), *((f"  {part}", "") for part in more)])
    return found


def _aligned(text: str, width: int, column: int) -> str:
    """A cell in its column: numbers to the right, words to the left."""
    to_the_right = COLUMNS[column] in ("measured", "needed", "blocks")
    return text.rjust(width) if to_the_right else text.ljust(width)
