"""The HTML report: one file that needs no network, of facts alone.

Nothing in it can act: text from outside is escaped, the figures' numbers are data, and a content
security policy allows only the two scripts that are in the file, by their hashes, and no request.
"""

import json
import re
from base64 import b64encode
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from robustness.report.conclusion import conclusion
from robustness.report.html import sentences
from robustness.report.html.figures import by_layer, degradation, history, overview
from robustness.report.html.heat_map import heat_map, parameters
from robustness.report.html.location import moved, restored
from robustness.report.html.parts import Figure, interval, needed
from robustness.report.reporters import REPORTERS
from robustness.report.results import CheckpointResult, CheckResult, Report
from robustness.report.terminal.notes import factor_of_task
from robustness.report.words import listed, number, ranges
from robustness.runtime.plain import visible
from robustness.statistics.location import Location

SHOWN = 40
"""Rows of a table of dimensions at most; the JSON report has them all."""
ICONS = {"pass": "✓", "fail": "✗", "inconclusive": "?", "error": "!", "not applicable": "·"}


@dataclass(frozen=True, kw_only=True)
class Section:
    """A checkpoint as it is shown."""

    anchor: str  # its id in the page
    result: CheckpointResult  # all that is known of it
    figures: Mapping[str, Figure]  # what is drawn of it, by ids in the page
    # ids of the figures of decisions, with their checks
    histories: tuple[tuple[str, CheckResult], ...]
    profile: CheckResult | None  # the check with a profile of layers, if any
    location: Location | None  # where it differs from its reference, if that was looked for


def render(report: Report) -> str:
    """Return the HTML report, or raise a ReportError if a package is missing."""
    sections = [section(report, place) for place in range(len(report.checkpoints))]
    figures = {name: figure for part in sections for name, figure in part.figures.items()}
    side_by_side = overview(report)
    if side_by_side is not None:
        figures["overview"] = side_by_side
    return rendered(
        "report.html.j2",
        figures,
        run=report,
        sections=sections,
        say=sentences,
        conclusion=conclusion,
        listed=listed,
        parameters=parameters,
        factor_of_task=factor_of_task,
    )


def section(report: Report, place: int) -> Section:
    """Return what is shown of one checkpoint."""
    checkpoint = report.checkpoints[place]
    anchor = f"checkpoint-{place + 1}"
    histories = [
        (f"{anchor}-history-{row}", check, drawn)
        for row, check in enumerate(checkpoint.checks)
        if (drawn := history(check)) is not None
    ]
    profile = next((check for check in checkpoint.checks if check.details.layers), None)
    locations = (check.details.location for check in checkpoint.checks)
    location = next((each for each in locations if each is not None), None)
    states = None if location is None else location.states
    drawn = {
        f"{anchor}-map": heat_map(checkpoint, len(report.checkpoints)),
        f"{anchor}-degradation": degradation(checkpoint),
        f"{anchor}-profile": None if profile is None else by_layer(profile),
        f"{anchor}-moved": None if states is None else moved(states),
        f"{anchor}-restored": None if states is None else restored(states),
        **{name: figure for name, _, figure in histories},
    }
    return Section(
        anchor=anchor,
        result=checkpoint,
        figures={name: figure for name, figure in drawn.items() if figure is not None},
        histories=tuple((name, check) for name, check, _ in histories),
        profile=profile,
        location=location,
    )


def rendered(template: str, figures: Mapping[str, Figure], **names: Any) -> str:
    """Return a page of a template with its figures, its style and the two scripts that draw.

    ``figures`` have their ids in the page, ``names`` are what else the template speaks of.

    Raises:
        ReportError: a package is missing.
    """
    REPORTERS["html"].require_packages()
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup
    from plotly.offline import get_plotlyjs

    environment = Environment(
        loader=PackageLoader("robustness.report.html"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_finalized,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(number=number, percent=percent, interval=interval, needed=needed)
    environment.filters.update(running=running, token=token, ranges=ranges)
    environment.globals.update(ICONS=ICONS, SHOWN=SHOWN)
    folder = Path(__file__).parent / "templates"
    # A parser reads CR LF as LF: the hashes are of what it reads.
    plotly = get_plotlyjs().replace("\r\n", "\n").replace("\r", "\n")
    scripts = [plotly, (folder / "page.js").read_text(encoding="utf-8")]
    hashes = [b64encode(sha256(script.encode()).digest()).decode() for script in scripts]
    return environment.get_template(template).render(
        **names,
        figures=Markup(embedded(figures)),
        drawn=figures,
        style=Markup((folder / "style.css").read_text(encoding="utf-8")),
        scripts=[Markup(script) for script in scripts],
        hashes=" ".join(f"'sha256-{digest}'" for digest in hashes),
    )


def embedded(figures: Mapping[str, Figure]) -> str:
    """Return JSON in which nothing ends a script or begins a comment."""
    drawn = json.loads(json.dumps(figures), parse_constant=lambda _: None)  # a gap where NaN is
    text = json.dumps(drawn, allow_nan=False, separators=(",", ":"))
    return re.sub(r"[<>&]", lambda match: f"\\u{ord(match[0]):04x}", text)


def _finalized(value: Any) -> Any:
    """Return text without characters that are invisible or turn its direction."""
    if type(value) is not str or value.isprintable():
        return value
    return "\n".join(map(visible, value.split("\n")))


def running(text: str) -> str:
    """Return text of a corpus as one paragraph, with signs for its line ends."""
    return re.sub(r"\s*\n\s*", " ↵ ", text)


def token(text: str) -> str:
    """Return a token so that it is seen: line ends and lone blanks become signs."""
    return text.replace("\n", "↵").strip() or "␣"


def percent(p: float | None) -> str:
    """Return a probability for people: ``93 %``, ``< 0.1 %``."""
    if p is None:
        return ""
    if 0 <= p < 1e-3:
        return "< 0.1 %"
    if 0.9995 <= p < 1:
        return "> 99.9 %"
    return f"{100 * p:.1f} %" if p < 0.1 or 0.995 <= p < 1 else f"{100 * p:.0f} %"
