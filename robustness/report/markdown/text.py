"""Text from outside inside of Markdown, where it must stay text.

Names, reasons and corpora come from whoever made a checkpoint. What they hold is written in
character references, which CommonMark never takes for structure: no link, image, HTML, heading,
rule, or end of a table's cell can come of them, nor a command to GitHub's runner.
"""

import re
from collections.abc import Callable
from typing import TYPE_CHECKING

from robustness.report.cells import COLUMNS, checks_in_order, row_of
from robustness.report.terminal.notes import notes
from robustness.report.words import DIMENSIONS, chance, counted, figure, furthest, ranges
from robustness.runtime.plain import plain

if TYPE_CHECKING:
    from jinja2 import Environment

NAME = 200
"""Characters of a name."""
SENTENCE = 600
"""Characters of a sentence that quotes names."""
MOST = 50
"""Items of a list."""

_ACTIVE = re.compile(r"[\\`*_{}\[\]<>&#|~$!@]|:(?=[:/])|(?<=www)\.|^[\s+=-]|\s(?=\s|$)", re.I)


def escaped(text: object, limit: int = NAME) -> str:
    r"""Return inline Markdown that renders as this text and does nothing else.

    Control characters and line ends become escapes as in Python's source (``\x1b``, ``\n``).
    """
    return _ACTIVE.sub(lambda match: f"&#{ord(match[0])};", plain(str(text), limit=limit))


def code(text: object, limit: int = NAME) -> str:
    """Return the same, set as code."""
    return f"<code>{escaped(text, limit)}</code>"


def environment(**names: object) -> "Environment":
    """Return what renders the templates here; whatever they write is escaped, but for numbers."""
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup

    def safe(function: Callable[..., str]) -> Callable[..., Markup]:
        return lambda *args: Markup(function(*args))

    environment = Environment(
        loader=PackageLoader("robustness.report.markdown"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=lambda value: value if isinstance(value, Markup) else safe(escaped)(value),
        trim_blocks=True,
        lstrip_blocks=True,
    )
    written = (escaped, code, chance, counted, figure, furthest, ranges)
    environment.filters.update({each.__name__: safe(each) for each in written})
    environment.globals.update(
        COLUMNS=COLUMNS, DIMENSIONS=DIMENSIONS, MOST=MOST, SENTENCE=SENTENCE, row_of=row_of,
        checks_in_order=checks_in_order, notes=notes, **names,
    )  # fmt: skip
    return environment
