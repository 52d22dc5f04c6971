"""The console program ``robustness``: scans checkpoints; shows and compares what was measured."""

import importlib
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from robustness.cli.console import stop
from robustness.runtime.libraries import name_clash

COMMANDS = {
    "scan": "scan",
    "trace": "trace",
    "report": "reports",
    "card": "card",
    "diff": "diff",
    "compare": "compare",
    "merge": "reports",
    "fleet": "fleet",
}
"""Commands by name, with their modules: only that of the one asked for is imported."""


class Commands(TyperGroup):
    """The commands, of which each is imported when it is needed."""

    def list_commands(self, ctx: Any) -> list[str]:  # noqa: ARG002
        """Their names, as the help shows them."""
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:  # noqa: ARG002
        """The command of that name, or ``None``."""
        if cmd_name not in COMMANDS:
            return None
        if clash := name_clash():
            stop(clash)
        module = importlib.import_module(f"robustness.cli.{COMMANDS[cmd_name]}")
        one = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
        one.command(cmd_name, cls=getattr(module, "Passing", TyperCommand))(
            getattr(module, cmd_name)
        )
        return typer.main.get_command(one)


app = typer.Typer(
    cls=Commands, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False
)


@app.callback(invoke_without_command=True)
def main(
    *, version: Annotated[bool, typer.Option("--version", help="Show the version.")] = False
) -> None:
    """Scan checkpoints; show, compare and merge what pytest --model=X has measured."""
    if version:
        from robustness import __version__

        typer.echo(__version__)
        raise typer.Exit
