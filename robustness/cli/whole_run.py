"""The report of a run that was carried out in parts: written, shown, and its exit code."""

import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

NO_VERDICT = 2
"""Exit code where there is none; that of a usage problem, too."""

JsonFile = Annotated[Path | None, typer.Option("--json", help="Write the report of the whole run.")]
JUnitFile = Annotated[
    Path | None, typer.Option("--junit", help="Write JUnit XML of the whole run.")
]


def finish(
    facts: dict[str, Any],
    *,
    json_file: Path | None,
    junit_file: Path | None,
    html_file: Path | None = None,
) -> None:
    """Write and show the report of a run that was merged, and end with its exit code."""
    from robustness.errors import RobustnessError
    from robustness.report import github
    from robustness.report.facts import to_json
    from robustness.report.junit import to_junit
    from robustness.report.terminal.summary import Encoded, write_summary
    from robustness.runtime.plain import plain
    from robustness.store.files import write_atomically

    try:
        for target, text in ((json_file, to_json(facts)), (junit_file, to_junit(facts))):
            if target is not None:
                write_atomically(target, text)
        if html_file is not None:
            from robustness.report.html.page import to_html

            write_atomically(html_file, to_html(facts))
    except (OSError, RobustnessError) as error:
        typer.echo(plain(f"robustness: a report could not be written: {error}"), err=True)
        raise typer.Exit(NO_VERDICT) from None
    write_summary(Encoded(PlainReporter(), sys.stdout.encoding), facts, facts["problems"])
    verdict = "passed" if facts["passed"] else "did not pass"
    typer.echo(f"robustness: the run of {facts['merged']} shards {verdict}")
    if github.is_wanted("auto", os.environ):
        typer.echo(github.as_output(github.publish(facts, os.environ), sys.stdout.encoding))
    raise typer.Exit(facts["exit_status"])


class PlainReporter:
    """Writes as pytest's terminal reporter does, in so far as a summary needs it."""

    def write_sep(self, sep: str, title: str | None = None, **markup: bool) -> None:
        """A line across the terminal."""
        del markup
        typer.echo(f" {title} ".center(80, sep))

    def write_line(self, line: str | bytes, **markup: bool) -> None:
        """A line."""
        del markup
        typer.echo(line)

    def write(self, content: str, *, flush: bool = False, **markup: bool) -> None:
        """A piece of a line."""
        del flush, markup
        typer.echo(content, nl=False)
