"""The terminal report: one table per checkpoint after a run."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

from robustness.report.facts import is_accepted
from robustness.report.terminal.notes import by_layer, comparison, findings, notes, profile_rows
from robustness.report.terminal.table import COLUMNS, MARKUP, laid_out, row_of
from robustness.report.terminal.wording import wrapped
from robustness.runtime.plain import encodable, plain


class Reporter(Protocol):
    """The part of pytest's terminal reporter that is used here."""

    def write_sep(self, sep: str, title: str | None = None, **markup: bool) -> None:
        """A line across the terminal."""

    def write_line(self, line: str | bytes, **markup: bool) -> None:
        """A line."""

    def write(self, content: str, *, flush: bool = False, **markup: bool) -> None:
        """A piece of a line."""


class Encoded:
    """A reporter for a stream that may lack letters: it gets what its encoding has.

    Args:
        reporter: writes to the stream.
        encoding: of the stream.
    """

    def __init__(self, reporter: Reporter, encoding: str | None) -> None:
        self._reporter = reporter
        self._encoding = encoding

    def write_sep(self, sep: str, title: str | None = None, **markup: bool) -> None:
        """A line across the terminal."""
        title = None if title is None else encodable(title, self._encoding)
        self._reporter.write_sep(sep, title, **markup)

    def write_line(self, line: str | bytes, **markup: bool) -> None:
        """A line."""
        text = line.decode() if isinstance(line, bytes) else line
        self._reporter.write_line(encodable(text, self._encoding), **markup)

    def write(self, content: str, *, flush: bool = False, **markup: bool) -> None:
        """A piece of a line."""
        self._reporter.write(encodable(content, self._encoding), flush=flush, **markup)


def write_summary(
    reporter: Reporter, facts: Mapping[str, Any], problems: Sequence[str], *, verbosity: int = 0
) -> None:
    """The tables, and why the run fails if it does.

    Args:
        reporter: where to.
        facts: of the run.
        problems: why it is no verdict although no test failed.
        verbosity: below 0 a line per checkpoint, and what failed; from 1 on what each check claims
            and why it came out as it did; from 2 on every layer.
    """
    for checkpoint in facts["checkpoints"]:
        if not checkpoint["checks"]:
            continue
        if verbosity < 0:
            _write_briefly(reporter, checkpoint)
            continue
        partial = " (PARTIAL)" if facts["partial"] else ""
        reporter.write_sep("=", f"robustness: {checkpoint['label']}{partial}", bold=True)
        _write_checkpoint(reporter, checkpoint, verbosity)
    if facts["partial"] and any(checkpoint["checks"] for checkpoint in facts["checkpoints"]):
        reporter.write_line(
            "PARTIAL: some of the planned checks were not selected; this run is no release verdict",
            yellow=True,
            bold=True,
        )
    for problem in problems:
        reporter.write_line(plain(f"robustness: {problem}"), red=True, bold=True)


def _write_briefly(reporter: Reporter, checkpoint: Mapping[str, Any]) -> None:
    """A line, and the rows of the checks that fail the run."""
    checks = checkpoint["checks"]
    failing = [check for check in checks if not is_accepted(check)]
    verdict = "FAILED" if failing else "passed"
    for line in wrapped(
        f"robustness: {checkpoint['label']} {verdict}: {len(checks) - len(failing)} of "
        f"{len(checks)} checks accepted"
    ):
        reporter.write_line(line, bold=True, red=bool(failing), green=not failing)
    if failing:
        _write_table(reporter, failing, checkpoint["corpus_text_blocks"], verbosity=-1)


def _write_checkpoint(reporter: Reporter, checkpoint: Mapping[str, Any], verbosity: int) -> None:
    for paragraph in findings(checkpoint):
        for line in wrapped(paragraph):
            reporter.write_line(line)
    if verbosity > 1:
        _write(reporter, by_layer(checkpoint["outliers"]))
    for line in comparison(checkpoint):
        reporter.write_line(line)
    reporter.write_line("")
    n_blocks = checkpoint["corpus_text_blocks"]
    _write_table(reporter, checkpoint["checks"], n_blocks, verbosity=verbosity)
    _write(reporter, notes(checkpoint["checks"], n_blocks))
    if verbosity > 1:
        _write(reporter, profile_rows(checkpoint["checks"]))


def _write_table(
    reporter: Reporter, checks: Sequence[Mapping[str, Any]], n_blocks: int, *, verbosity: int
) -> None:
    rows = [COLUMNS, *(row_of(check, n_blocks) for check in checks)]
    for number, lines in enumerate(laid_out(rows)):
        for before, verdict in lines:
            reporter.write(before, bold=number == 0)
            reporter.write_line(verdict, **MARKUP.get(verdict, {"bold": True}))
        if verbosity > 0 and number > 0:
            _write(reporter, [f"    {_claimed(checks[number - 1])}"])


def _claimed(check: Mapping[str, Any]) -> str:
    tokens = f"{check['tokens']} tokens" if check["tokens"] else ""
    return "; ".join(part for part in (check["statement"], check["reason"], tokens) if part)


def _write(reporter: Reporter, paragraphs: Iterable[str]) -> None:
    for paragraph in paragraphs:
        for line in wrapped(paragraph):
            reporter.write_line(line)
