"""The terminal report: one table per checkpoint after a run."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from robustness.plain import plain
from robustness.report.notes import comparison, findings, notes
from robustness.report.table import COLUMNS, MARKUP, aligned, row_of
from robustness.report.wording import wrapped


class Reporter(Protocol):
    """The part of pytest's terminal reporter that is used here."""

    def write_sep(self, sep: str, title: str | None = None, **markup: bool) -> None:
        """A line across the terminal."""

    def write_line(self, line: str | bytes, **markup: bool) -> None:
        """A line."""

    def write(self, content: str, *, flush: bool = False, **markup: bool) -> None:
        """A piece of a line."""


def write_summary(reporter: Reporter, facts: Mapping[str, Any], problems: Sequence[str]) -> None:
    """The tables, and why the run fails if it does."""
    for checkpoint in facts["checkpoints"]:
        if checkpoint["checks"]:
            partial = " (PARTIAL)" if facts["partial"] else ""
            reporter.write_sep("=", f"robustness: {checkpoint['label']}{partial}", bold=True)
            _write_checkpoint(reporter, checkpoint)
    if facts["partial"] and any(checkpoint["checks"] for checkpoint in facts["checkpoints"]):
        reporter.write_line(
            "PARTIAL: some of the planned checks were not selected; this run is no release verdict",
            yellow=True,
            bold=True,
        )
    for problem in problems:
        reporter.write_line(plain(f"robustness: {problem}"), red=True, bold=True)


def _write_checkpoint(reporter: Reporter, checkpoint: Mapping[str, Any]) -> None:
    for paragraph in findings(checkpoint):
        for line in wrapped(paragraph):
            reporter.write_line(line)
    for line in comparison(checkpoint):
        reporter.write_line(line)
    reporter.write_line("")
    n_blocks = checkpoint["corpus_text_blocks"]
    rows = [COLUMNS, *(row_of(check, n_blocks) for check in checkpoint["checks"])]
    widths = [max(len(row[column]) for row in rows) for column in range(len(COLUMNS))]
    for number, row in enumerate(rows):
        line = "  ".join(aligned(row[i], widths[i], i) for i in range(len(COLUMNS) - 1))
        reporter.write(f"{line}  ", bold=number == 0)
        markup = MARKUP.get(row[-1], {"bold": True})
        reporter.write_line(row[-1], **markup)
    for note in notes(checkpoint["checks"], n_blocks):
        for line in wrapped(note):
            reporter.write_line(line)
