"""The page of ``robustness compare``: where a candidate differs, as figures and tables."""

from robustness import __version__
from robustness.report.compared import Compared
from robustness.report.html.location import moved, place, restored
from robustness.report.html.page import rendered
from robustness.runtime.libraries import library_versions
from robustness.statistics.location import ENTERING, percent

TENSORS = 40
"""Rows of the table of tensors at most."""


def to_html(compared: Compared) -> str:
    """Return the page, or raise a ReportError if a package is missing."""
    states = compared.location.states
    figures = {} if states is None else {"moved": moved(states)}
    if states is not None and (drawn := restored(states)) is not None:
        figures["restored"] = drawn
    return rendered(
        "compared.html.j2",
        figures,
        version=__version__,
        versions=library_versions(),
        compared=compared,
        location=compared.location,
        place=place,
        percent_of=percent,
        ENTERING=ENTERING,
        TENSORS=TENSORS,
    )
