"""The formats of a report, by name: to add one is a module that renders, and its line here.

A module of a format has a function ``render(report: Report) -> str``. It is imported when it is
first needed: options are made of this list wherever pytest starts.
"""

import importlib
import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from robustness.report.results import Report


@dataclass(frozen=True, kw_only=True)
class Reporter:
    """A format."""

    name: str  # of the format, and of the option that asks for it
    module: str  # that renders it
    writes: str = ""  # what it writes, after "write "; empty for a format that no option asks for
    needs: tuple[str, ...] = ()  # packages that it imports
    extra: str = ""  # of the distribution, that has them
    in_a_run: bool = False  # whether a run of pytest can write it, too

    @property
    def described(self) -> str:
        """Return what it writes, and what has to be installed for that."""
        extra = f"pip install 'pytest-robustness[{self.extra}]'"
        return (
            f"{self.writes} (needs the extra '{self.extra}': {extra})"
            if self.extra
            else self.writes
        )

    def render(self, report: "Report") -> str:
        """Return the report in this format.

        Raises:
            ReportError: if a package is missing, or the format cannot tell of this report.
        """
        self.require_packages()
        render: Callable[[Report], str] = importlib.import_module(self.module).render
        return render(report)

    def require_packages(self) -> None:
        """Raise a ReportError that says what is missing, if anything is."""
        missing = [name for name in self.needs if importlib.util.find_spec(name) is None]
        if missing:
            from robustness.errors import ReportError  # not where pytest only makes its options

            raise ReportError(
                f"the {self.name.upper()} report needs {' and '.join(missing)}, which "
                f"{'is' if len(missing) == 1 else 'are'} not installed: "
                f"pip install 'pytest-robustness[{self.extra}]'"
            )


REPORTERS: Mapping[str, Reporter] = {
    reporter.name: reporter
    for reporter in (
        Reporter(
            name="html",
            module="robustness.report.html.page",
            writes="a page with figures to this file, which needs no network",
            needs=("plotly",),
            extra="html",
            in_a_run=True,
        ),
        Reporter(
            name="markdown",
            module="robustness.report.markdown.page",
            writes="a Markdown summary to this file",
            in_a_run=True,
        ),
        Reporter(
            name="json",
            module="robustness.report.json_document",
            writes="every measured fact and verdict to this file",
            in_a_run=True,
        ),
        Reporter(name="junit", module="robustness.report.junit", writes="JUnit XML to this file"),
        Reporter(name="terminal", module="robustness.report.terminal.summary"),
        Reporter(name="github", module="robustness.report.github"),
        Reporter(name="card", module="robustness.report.markdown.card"),
    )
}
"""JSON comes behind the formats of a run that may fail: it holds whatever goes wrong with them."""
