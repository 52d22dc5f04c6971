"""``robustness report`` and ``merge``: saved reports in other formats, or made into one verdict."""

import functools
import inspect
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from robustness.cli.console import refusing, show, stop, write_file
from robustness.errors import ReportError, RobustnessError
from robustness.report import github
from robustness.report.json_document import read_report
from robustness.report.merge import merge as merged
from robustness.report.merge import read_shard
from robustness.report.reporters import REPORTERS, Reporter
from robustness.report.results import Report
from robustness.runtime.plain import plain

OFFERED = {f"{name}_file": each for name, each in REPORTERS.items() if each.writes}
"""Formats by the parameter that names their file."""


def writing(command: Callable[..., None]) -> Callable[..., None]:
    """The command with an option ``--NAME=FILE`` for every format, which fill its ``files``."""

    @functools.wraps(command)
    def run(**given: Any) -> None:
        named = {each.name: given.pop(parameter) for parameter, each in OFFERED.items()}
        command(**given, files={name: file for name, file in named.items() if file is not None})

    own = inspect.signature(command).parameters
    parameters = [parameter for name, parameter in own.items() if name != "files"]
    parameters += [_parameter(name, each) for name, each in OFFERED.items()]
    run.__dict__["__signature__"] = inspect.Signature(parameters)
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return run


def _parameter(name: str, reporter: Reporter) -> inspect.Parameter:
    option = typer.Option(f"--{reporter.name}", help=f"Write {reporter.writes}.", metavar="FILE")
    kind = inspect.Parameter.KEYWORD_ONLY
    return inspect.Parameter(name, kind, default=None, annotation=Annotated[Path | None, option])


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
    with refusing(written="a report"):
        if not files:
            raise ReportError("nothing to write: name a file with --html=FILE or --markdown=FILE")
        _write(read_report(result), files)
    for file in files.values():
        show(plain(f"robustness: wrote {file}"))


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
    with refusing():
        require_packages(files)
        whole = merged([read_shard(file) for file in shards], [str(file) for file in shards])
    finish(whole, files)


def require_packages(files: Mapping[str, Path]) -> None:
    """Find out before there is anything to write whether all of it could be."""
    for name in files:
        REPORTERS[name].require_packages()


def finish(report: Report, files: Mapping[str, Path]) -> NoReturn:
    """Write and show the report of a run that was merged, and end with its exit code."""
    try:
        _write(report, files)
    except (OSError, RobustnessError) as error:
        stop(f"a report could not be written: {error}")
    show(REPORTERS["terminal"].render(report), nl=False)
    verdict = "passed" if report.passed else "did not pass"
    typer.echo(f"robustness: the run of {report.merged} shards {verdict}")
    if github.is_wanted("auto", os.environ):
        typer.echo(github.as_output(github.publish(report, os.environ), sys.stdout.encoding))
    raise typer.Exit(report.exit_status)


def _write(report: Report, files: Mapping[str, Path]) -> None:
    """Render all of them, then write them: a format that fails leaves none half done."""
    texts = {file: _rendered(name, report) for name, file in files.items()}
    for file, text in texts.items():
        write_file(file, text)


def _rendered(name: str, report: Report) -> str:
    try:
        return REPORTERS[name].render(report)
    except (RobustnessError, OSError):
        raise
    except Exception as error:  # a result that no run of ours has written may hold anything
        why = f"{type(error).__name__}: {error}"
        raise ReportError(
            f"the {name} report cannot be made of this result ({why}): its numbers do not belong "
            "together; vet again"
        ) from error
