"""``robustness report``: a saved result in other formats, without a model."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer

from robustness.cli.formats import NO_VERDICT, write, writing


@writing
def report(
    result: Annotated[
        Path, typer.Argument(metavar="RESULT.json", help="What --robustness-json has written.")
    ],
    *,
    files: Mapping[str, Path],
) -> None:
    """Show a saved result as a page, as Markdown or in another format; no model is needed.

    Exit code 0: written; 2: the result cannot be read, or a report cannot be written.
    """
    from robustness.errors import ReportError, RobustnessError
    from robustness.report.json_document import read_report
    from robustness.runtime.plain import plain

    try:
        if not files:
            raise ReportError("nothing to write: name a file with --html=FILE or --markdown=FILE")
        write(read_report(result), files)
    except RobustnessError as error:
        typer.echo(f"robustness: {error}", err=True)
        raise typer.Exit(NO_VERDICT) from None
    except OSError as error:
        typer.echo(plain(f"robustness: a report could not be written: {error}"), err=True)
        raise typer.Exit(NO_VERDICT) from None
    for file in files.values():
        typer.echo(plain(f"robustness: wrote {file}"))
