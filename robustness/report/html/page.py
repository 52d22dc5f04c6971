"""The HTML report: one file that needs no network, of facts alone.

Nothing in it can act: text from outside is escaped, the figures' numbers are data, and a content
security policy allows only the two scripts that are in the file, by their hashes, and no request.
"""

import importlib.util
import json
import re
from base64 import b64encode
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from typing import Any

from robustness.errors import ReportError
from robustness.report.html import sentences
from robustness.report.html.axes import number
from robustness.report.html.figures import course, degradation, layer_profile
from robustness.report.html.heat_map import heat_map, parameters
from robustness.report.html.overview import overview
from robustness.report.html.parts import Figure, interval, needed
from robustness.report.saved import CheckpointResult, CheckResult, RunResult, parsed

NEEDED = ("jinja2", "plotly")
INSTALL = "pip install 'pytest-robustness[html]'"
SHOWN = 40
"""Rows of a table of dimensions at most; the JSON report has them all."""
ICONS = {"pass": "✓", "fail": "✗", "inconclusive": "?", "error": "!", "not applicable": "·"}


@dataclass(frozen=True, kw_only=True)
class Section:
    """A checkpoint as it is shown.

    Attributes:
        anchor: its id in the page.
        facts: all that is known of it.
        figures: what is drawn of it, by ids in the page.
        courses: ids of the figures of decisions, with their checks.
        profile: the check with a profile of layers, if any.
    """

    anchor: str
    facts: CheckpointResult
    figures: Mapping[str, Figure]
    courses: tuple[tuple[str, CheckResult], ...]
    profile: CheckResult | None


def require_packages() -> None:
    """Find out whether an HTML report could be written.

    Raises:
        ReportError: one sentence on what is missing.
    """
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise ReportError(
            f"the HTML report needs {' and '.join(missing)}, which "
            f"{'is' if len(missing) == 1 else 'are'} not installed: {INSTALL}"
        )


def to_html(facts: Mapping[str, Any]) -> str:
    """The HTML report.

    Args:
        facts: by :func:`robustness.report.facts.run_facts`, or read from a JSON report.

    Raises:
        ReportError: if they are not the facts of a run, or a package is missing.
    """
    require_packages()
    run = parsed(facts)
    sections = [section(run, place) for place in range(len(run.checkpoints))]
    figures = {name: figure for each in sections for name, figure in each.figures.items()}
    side_by_side = overview(run)
    if side_by_side is not None:
        figures["overview"] = side_by_side
    return _rendered(run, sections, figures)


def section(run: RunResult, place: int) -> Section:
    """What is shown of one checkpoint."""
    checkpoint = run.checkpoints[place]
    anchor = f"checkpoint-{place + 1}"
    courses = [
        (f"{anchor}-course-{row}", check, drawn)
        for row, check in enumerate(checkpoint.checks)
        if (drawn := course(check)) is not None
    ]
    profile = next((check for check in checkpoint.checks if check.details.layer_profile), None)
    drawn = {
        f"{anchor}-map": heat_map(checkpoint, len(run.checkpoints)),
        f"{anchor}-degradation": degradation(checkpoint),
        f"{anchor}-profile": None if profile is None else layer_profile(profile),
        **{name: figure for name, _, figure in courses},
    }
    return Section(
        anchor=anchor,
        facts=checkpoint,
        figures={name: figure for name, figure in drawn.items() if figure is not None},
        courses=tuple((name, check) for name, check, _ in courses),
        profile=profile,
    )


def _rendered(run: RunResult, sections: list[Section], figures: Mapping[str, Figure]) -> str:
    return rendered(
        "report.html.j2", figures, run=run, sections=sections, say=sentences, parameters=parameters
    )


def rendered(template: str, figures: Mapping[str, Figure], **names: Any) -> str:
    """A page of a template, with its figures, its style and the two scripts that draw.

    Args:
        template: beside the others.
        figures: by their ids in the page.
        names: what else the template speaks of.

    Raises:
        ReportError: a package is missing.
    """
    require_packages()
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
    environment.filters.update(running=running, token=token)
    environment.globals.update(ICONS=ICONS, SHOWN=SHOWN)
    read = partial(_source, environment)
    # A parser reads CR LF as LF: the hashes are of what it reads.
    scripts = [get_plotlyjs().replace("\r\n", "\n").replace("\r", "\n"), read("page.js")]
    return environment.get_template(template).render(
        **names,
        figures=Markup(embedded(figures)),
        drawn=figures,
        style=Markup(read("style.css")),
        scripts=[Markup(script) for script in scripts],
        hashes=" ".join(f"'sha256-{_hash(script)}'" for script in scripts),
    )


def _source(environment: Any, name: str) -> str:
    """A file beside the templates, as it is."""
    source: str = environment.loader.get_source(environment, name)[0]
    return source


def _hash(script: str) -> str:
    return b64encode(sha256(script.encode()).digest()).decode()


def embedded(figures: Mapping[str, Figure]) -> str:
    """JSON that can stand between two tags: nothing in it can end a script or begin a comment."""
    text = json.dumps(figures, allow_nan=False, separators=(",", ":"))
    return re.sub(r"[<>&]", lambda found: f"\\u{ord(found[0]):04x}", text)


def _finalized(value: Any) -> Any:
    """Whatever is printed: text without characters that are invisible or turn its direction."""
    if type(value) is not str or value.isprintable():
        return value
    return "".join(c if c.isprintable() or c == "\n" else _code(c) for c in value)


def _code(character: str) -> str:
    return character.encode("unicode_escape", errors="surrogatepass").decode("ascii")


def running(text: str) -> str:
    """Text of a corpus in one paragraph: its line ends as signs."""
    return re.sub(r"\s*\n\s*", " ↵ ", text)


def token(text: str) -> str:
    """A token so that it is seen: line ends and blanks as signs, without the blanks around it."""
    return text.replace("\n", "↵").strip() or "␣"


def percent(p: float | None) -> str:
    """A probability for people: ``93 %``, ``< 0.1 %``."""
    if p is None:
        return ""
    if 0 <= p < 1e-3:
        return "< 0.1 %"
    if 0.9995 <= p < 1:
        return "> 99.9 %"
    return f"{100 * p:.1f} %" if p < 0.1 or 0.995 <= p < 1 else f"{100 * p:.0f} %"
