"""The console program ``robustness``: scans checkpoints; shows and compares what was measured."""

import json
import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from robustness import __version__
from robustness.baseline import read_profile
from robustness.check_settings import MatchesBaseline
from robustness.commands.card import card
from robustness.commands.fleet import Passing, fleet
from robustness.commands.report import report
from robustness.commands.scan import scan
from robustness.commands.trace import trace
from robustness.errors import RobustnessError
from robustness.files import write_atomically
from robustness.policy import load_check
from robustness.profile_diff import SCHEMA, CheckpointDiff, degradation, diff
from robustness.report import github
from robustness.report.facts import to_json
from robustness.report.junit import to_junit
from robustness.report.merge import merge, read_shard
from robustness.report.terminal import Encoded, write_summary
from robustness.verdict import Verdict

NOT_COMPARABLE = 2
"""Exit code; that of a usage problem, too."""

STYLES = {"pass": "green", "fail": "bold red"}

app = typer.Typer(
    help="Scan checkpoints; show, compare and merge what pytest --model=X has measured.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


@app.callback(invoke_without_command=True)
def main(
    *, version: Annotated[bool, typer.Option("--version", help="Show the version.")] = False
) -> None:
    """Scan checkpoints; show, compare and merge what pytest --model=X has measured."""
    if version:
        typer.echo(__version__)
        raise typer.Exit


app.command("report")(report)


@app.command("diff")
def compare(
    then: Annotated[Path, typer.Argument(metavar="A.json", help="The baseline.")],
    now: Annotated[Path, typer.Argument(metavar="B.json", help="What is compared with it.")],
    *,
    dims: Annotated[
        str, typer.Option(help="Outlier dimensions: same, subset, superset or any.")
    ] = MatchesBaseline().dims,
    max_perplexity_ratio: Annotated[
        float, typer.Option(help="Perplexity may be up to this many times the baseline's.")
    ] = MatchesBaseline().max_perplexity_ratio,
    max_degradation_ratio: Annotated[
        float, typer.Option(help="A degradation may differ by this factor, up or down.")
    ] = MatchesBaseline().max_degradation_ratio,
    as_json: Annotated[bool, typer.Option("--json", help="Write JSON instead of a table.")] = False,
) -> None:
    """Compare two profiles saved by --robustness-save-baseline.

    Exit code 0: within the tolerances; 1: regressed; 2: not comparable.
    """
    try:
        limits = load_check(
            MatchesBaseline,
            {
                "dims": dims,
                "max_perplexity_ratio": max_perplexity_ratio,
                "max_degradation_ratio": max_degradation_ratio,
            },
        )
        found = diff(
            read_profile(then),
            read_profile(now),
            limits=limits,
            alpha=0.01,
            sources=(str(then), str(now)),
        )
    except RobustnessError as error:
        if as_json:
            _write_json({"outcome": "not comparable", "reason": str(error), "checkpoints": []})
        typer.echo(f"robustness: {error}", err=True)
        raise typer.Exit(NOT_COMPARABLE) from None
    regressed = any(checkpoint.outcome == "regressed" for checkpoint in found)
    if as_json:
        outcome = "regressed" if regressed else "same"
        parts = [checkpoint.to_dict() for checkpoint in found]
        _write_json({"outcome": outcome, "reason": "", "checkpoints": parts})
    else:
        for checkpoint in found:
            _show(checkpoint)
    raise typer.Exit(int(regressed))


@app.command("merge")
def join(
    files: Annotated[
        list[Path], typer.Argument(metavar="SHARD.json...", help="Reports of all shards.")
    ],
    *,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Write the report of the whole run.")
    ] = None,
    junit_file: Annotated[
        Path | None, typer.Option("--junit", help="Write JUnit XML of the whole run.")
    ] = None,
    html_file: Annotated[
        Path | None, typer.Option("--html", help="Write a page with figures of the whole run.")
    ] = None,
) -> None:
    """Make one verdict of the JSON reports of --robustness-shard=i/n.

    Exit code 0: everything passed; 1: something failed or is missing; 2: not of one run.
    """
    try:
        _require_page_can_be_drawn(html_file)
        facts = merge([read_shard(file) for file in files], [str(file) for file in files])
    except RobustnessError as error:
        typer.echo(f"robustness: {error}", err=True)
        raise typer.Exit(NOT_COMPARABLE) from None
    finish(facts, json_file=json_file, junit_file=junit_file, html_file=html_file)


def _require_page_can_be_drawn(html_file: Path | None) -> None:
    """Before anything is merged, as before a run."""
    if html_file is not None:
        from robustness.report.html import require_packages

        require_packages()


def finish(
    facts: dict[str, Any],
    *,
    json_file: Path | None,
    junit_file: Path | None,
    html_file: Path | None = None,
) -> None:
    """Write and show the report of a run that was merged, and end with its exit code."""
    try:
        for target, text in ((json_file, to_json(facts)), (junit_file, to_junit(facts))):
            if target is not None:
                write_atomically(target, text)
        if html_file is not None:
            from robustness.report.html import to_html

            write_atomically(html_file, to_html(facts))
    except (OSError, RobustnessError) as error:
        typer.echo(f"robustness: a report could not be written: {error}", err=True)
        raise typer.Exit(NOT_COMPARABLE) from None
    write_summary(Encoded(PlainReporter(), sys.stdout.encoding), facts, facts["problems"])
    verdict = "passed" if facts["passed"] else "did not pass"
    typer.echo(f"robustness: the run of {facts['merged']} shards {verdict}")
    if github.is_wanted("auto", os.environ):
        typer.echo(github.as_output(github.publish(facts, os.environ), sys.stdout.encoding))
    raise typer.Exit(facts["exit_status"])


app.command("fleet", cls=Passing)(fleet)
app.command("scan")(scan)
app.command("card")(card)
app.command("trace")(trace)


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


def _write_json(facts: dict[str, Any]) -> None:
    typer.echo(json.dumps({"schema": SCHEMA, **facts}, indent=2, allow_nan=False))


def _show(checkpoint: CheckpointDiff) -> None:
    """A table; names are shown as they are, never taken for markup."""
    console = Console(highlight=False)
    then, now = checkpoint.then, checkpoint.now
    console.print(Text(f"{now.label}: {then.reference} at {then.revision}"))
    console.print(Text(f"  and {now.reference} at {now.revision}, on {now.corpus}"))
    table = Table("compared", "ratio", "needed", "blocks", "verdict", "what was found")
    for name, verdict in checkpoint.verdicts.items():
        style = STYLES.get(verdict.outcome, "bold")
        cells = (name, *_figures(verdict), verdict.outcome, verdict.reason)
        table.add_row(*(Text(cell, style if cell == verdict.outcome else "") for cell in cells))
    for profile, names, when, not_when in (
        (then, checkpoint.left_out, "then", "now"),
        (now, checkpoint.new, "now", "then"),
    ):
        for name in names:
            harm = f"x{degradation(profile, name):.4g} {when}; not ablated {not_when}"
            table.add_row(Text(name), "", "", "", "not compared", Text(harm))
    console.print(table)


def _figures(verdict: Verdict) -> tuple[str, str, str]:
    if verdict.ratio is None or verdict.threshold is None:
        return "", "", ""
    sign = "<" if verdict.passes == "below" else ">="
    return f"{verdict.ratio:.4g}", f"{sign} {verdict.threshold:.4g}", str(verdict.text_blocks)
