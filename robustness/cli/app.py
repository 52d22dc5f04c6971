"""The console program ``robustness``: scans checkpoints; shows and compares what was measured."""

from typing import Annotated

import typer

from robustness import __version__
from robustness.cli.card import card
from robustness.cli.diff import diff
from robustness.cli.fleet import Passing, fleet
from robustness.cli.reports import merge, report
from robustness.cli.scan import scan
from robustness.cli.trace import trace

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)


@app.callback(invoke_without_command=True)
def main(
    *, version: Annotated[bool, typer.Option("--version", help="Show the version.")] = False
) -> None:
    """Scan checkpoints; show, compare and merge what pytest --model=X has measured."""
    if version:
        typer.echo(__version__)
        raise typer.Exit


for command in (scan, trace, report, card, diff, merge):
    app.command(command.__name__)(command)
app.command("fleet", cls=Passing)(fleet)
