"""``robustness merge``: one verdict from the reports of a run's shards."""

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from robustness.cli.formats import NO_VERDICT, require_packages, write, writing

if TYPE_CHECKING:
    from robustness.report.results import Report


@writing
def merge(
    shards: Annotated[
        list[Path], typer.Argument(metavar="SHARD.json...", help="Reports of all shards.")
    ],
    *,
    files: Mapping[str, Path],
) -> None:
    """Make one verdict of the JSON reports of --robustness-shard=i/n.

    Exit code 0: everything passed; 1: something failed or is missing; 2: not of one run.
    """
    from robustness.errors import RobustnessError
    from robustness.report.merge import merge as merged
    from robustness.report.merge import read_shard

    try:
        require_packages(files)
        report = merged([read_shard(file) for file in shards], [str(file) for file in shards])
    except RobustnessError as error:
        typer.echo(f"robustness: {error}", err=True)
        raise typer.Exit(NO_VERDICT) from None
    finish(report, files)


def finish(report: "Report", files: Mapping[str, Path]) -> NoReturn:
    """Write and show the report of a run that was merged, and end with its exit code."""
    from robustness.errors import RobustnessError
    from robustness.report import github
    from robustness.report.reporters import REPORTERS
    from robustness.runtime.plain import encodable, plain

    try:
        write(report, files)
    except (OSError, RobustnessError) as error:
        typer.echo(plain(f"robustness: a report could not be written: {error}"), err=True)
        raise typer.Exit(NO_VERDICT) from None
    shown = REPORTERS["terminal"].render(report)
    typer.echo(encodable(shown, sys.stdout.encoding), nl=False)
    verdict = "passed" if report.passed else "did not pass"
    typer.echo(f"robustness: the run of {report.merged} shards {verdict}")
    if github.is_wanted("auto", os.environ):
        typer.echo(github.as_output(github.publish(report, os.environ), sys.stdout.encoding))
    raise typer.Exit(report.exit_status)
