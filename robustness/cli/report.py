"""``robustness report``: HTML and Markdown of a saved result, without a model."""

from pathlib import Path
from typing import Annotated

import typer

UNREADABLE = 2
"""Exit code; that of a usage problem, too."""


def report(
    result: Annotated[
        Path, typer.Argument(metavar="RESULT.json", help="What --robustness-json has written.")
    ],
    *,
    html_file: Annotated[
        Path | None, typer.Option("--html", help="Write a page with figures, one file.")
    ] = None,
    markdown_file: Annotated[
        Path | None, typer.Option("--markdown", help="Write a Markdown summary.")
    ] = None,
) -> None:
    """Show a saved result as a page or as Markdown; no model is needed.

    Exit code 0: written; 2: the result cannot be read, or a report cannot be written.
    """
    from robustness.errors import ReportError, RobustnessError
    from robustness.report.saved import parsed, read_facts
    from robustness.runtime.plain import plain
    from robustness.store.files import write_atomically

    try:
        if html_file is None and markdown_file is None:
            raise ReportError("nothing to write: name a file with --html=FILE or --markdown=FILE")
        facts = read_facts(result)
        parsed(facts, str(result))
        texts: dict[Path, str] = {}
        if html_file is not None:
            from robustness.report.html.page import to_html

            texts[html_file] = to_html(facts)
        if markdown_file is not None:
            from robustness.report.markdown.page import to_markdown

            texts[markdown_file] = to_markdown(facts)
        for file, text in texts.items():
            write_atomically(file, text)
            typer.echo(plain(f"robustness: wrote {file}"))
    except RobustnessError as error:
        typer.echo(f"robustness: {error}", err=True)
        raise typer.Exit(UNREADABLE) from None
    except OSError as error:
        typer.echo(plain(f"robustness: a report could not be written: {error}"), err=True)
        raise typer.Exit(UNREADABLE) from None
