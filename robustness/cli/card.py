"""``robustness card``: what a run found, for the checkpoint's model card."""

from pathlib import Path
from typing import Annotated

import typer

from robustness.checkpoint.reference import is_hub_id
from robustness.cli.console import refusing, show, stop, write_file
from robustness.errors import ReportError
from robustness.report.json_document import read_report
from robustness.report.markdown.card import chosen, eval_results, has_passed, section
from robustness.report.markdown.card_file import new_card, updated


def card(
    result: Annotated[Path, typer.Argument(metavar="RESULT.json", help="A run's JSON report.")],
    *,
    repo_id: Annotated[
        str | None, typer.Option(help="Name of the model on the Hub, such as organisation/name.")
    ] = None,
    checkpoint: Annotated[
        str | None, typer.Option(help="Label of the checkpoint, where the report has several.")
    ] = None,
    output: Annotated[Path | None, typer.Option(help="Write a new card to this file.")] = None,
    update: Annotated[
        Path | None, typer.Option(help="Put the section and the entries into this card.")
    ] = None,
    allow_failed: Annotated[
        bool, typer.Option("--allow-failed", help="Also where the run failed; the card says so.")
    ] = False,
) -> None:
    """Write model-index entries and a section of a model card from a result.

    Exit code 0: written; 1: the checkpoint did not pass, and nothing was
    written; 2: the report or the card cannot be used.
    """
    if output is not None and update is not None:
        stop("--output writes a new card and --update changes one: give one of them")
    with refusing(written="the card"):
        if repo_id is not None and not is_hub_id(repo_id):
            raise ReportError(f"{repo_id!r} is no name of a model on the Hub")
        report = read_report(result)
        vetted = chosen(report, checkpoint)
        if not has_passed(report, vetted) and not allow_failed:
            why = "did not pass, so nothing was written; --allow-failed writes a card that says so"
            stop(f"{vetted.label} {why}", code=1)
        name = repo_id.rpartition("/")[2] if repo_id else vetted.label
        parts = name, section(report, vetted, repo_id=repo_id), eval_results(report, vetted)
        text = new_card(*parts) if update is None else updated(_read(update), *parts)
        target = output or update
        if target is None:
            show(text, nl=False)
            return
        if output is not None and output.exists() and _read(output) != text:
            raise ReportError(f"{output} exists: change it with --update, or name another file")
        write_file(target.resolve(), text)
    show(f"robustness: {target} tells of {vetted.label}")


def _read(file: Path) -> str:
    try:
        return file.read_bytes().decode("utf-8")
    except OSError as error:
        raise ReportError(f"{file} cannot be read: {error.strerror or error}") from None
    except UnicodeDecodeError:
        raise ReportError(f"{file} is not text in UTF-8") from None
