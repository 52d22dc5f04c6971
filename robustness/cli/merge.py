"""``robustness merge``: one verdict of the reports of a run's shards."""

from pathlib import Path
from typing import Annotated

import typer

from robustness.cli.whole_run import NO_VERDICT, JsonFile, JUnitFile, finish


def merge(
    files: Annotated[
        list[Path], typer.Argument(metavar="SHARD.json...", help="Reports of all shards.")
    ],
    *,
    json_file: JsonFile = None,
    junit_file: JUnitFile = None,
    html_file: Annotated[
        Path | None, typer.Option("--html", help="Write a page with figures of the whole run.")
    ] = None,
) -> None:
    """Make one verdict of the JSON reports of --robustness-shard=i/n.

    Exit code 0: everything passed; 1: something failed or is missing; 2: not of one run.
    """
    from robustness.errors import RobustnessError
    from robustness.report.merge import merge as merged
    from robustness.report.merge import read_shard

    try:
        _require_page_can_be_drawn(html_file)
        facts = merged([read_shard(file) for file in files], [str(file) for file in files])
    except RobustnessError as error:
        typer.echo(f"robustness: {error}", err=True)
        raise typer.Exit(NO_VERDICT) from None
    finish(facts, json_file=json_file, junit_file=junit_file, html_file=html_file)


def _require_page_can_be_drawn(html_file: Path | None) -> None:
    """Before anything is merged, as before a run."""
    if html_file is not None:
        from robustness.report.html.page import require_packages

        require_packages()
