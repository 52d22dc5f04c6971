"""An option for every format that a report can be written in, on each command that writes one."""

import functools
import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from robustness.report.reporters import REPORTERS, Reporter

if TYPE_CHECKING:
    from robustness.report.results import Report

NO_VERDICT = 2
"""Exit code of what could not be read or written; that of a usage problem, too."""

OFFERED = {f"{name}_file": each for name, each in REPORTERS.items() if each.writes}
"""Formats by the parameter that names their file."""


def writing(command: Callable[..., None]) -> Callable[..., None]:
    """The command with an option ``--NAME=FILE`` for every format.

    Args:
        command: has a parameter ``files``, and gets the files that were named, by format.
    """

    @functools.wraps(command)
    def run(**given: Any) -> None:
        named = {each.name: given.pop(parameter) for parameter, each in OFFERED.items()}
        command(**given, files={name: file for name, file in named.items() if file is not None})

    own = inspect.signature(command).parameters
    parameters = [parameter for name, parameter in own.items() if name != "files"]
    parameters += [_parameter(name, each) for name, each in OFFERED.items()]
    run.__dict__["__signature__"] = inspect.Signature(parameters)
    run.__annotations__ = {each.name: each.annotation for each in parameters}
    return run


def _parameter(name: str, reporter: Reporter) -> inspect.Parameter:
    option = typer.Option(f"--{reporter.name}", help=f"Write {reporter.writes}.", metavar="FILE")
    kind = inspect.Parameter.KEYWORD_ONLY
    return inspect.Parameter(name, kind, default=None, annotation=Annotated[Path | None, option])


def require_packages(files: Mapping[str, Path]) -> None:
    """Find out before there is anything to write whether all of it could be.

    Raises:
        ReportError: one sentence on what is missing.
    """
    for name in files:
        REPORTERS[name].require_packages()


def write(report: "Report", files: Mapping[str, Path]) -> None:
    """Render all of them, then write them.

    Raises:
        ReportError: if one cannot be rendered.
        OSError: if one cannot be written.
    """
    from robustness.store.files import write_atomically

    texts = {file: REPORTERS[name].render(report) for name, file in files.items()}
    for file, text in texts.items():
        write_atomically(file, text)
