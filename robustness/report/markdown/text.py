"""Text from outside inside of Markdown, where it must stay text.

Names, reasons and corpora come from whoever made a checkpoint. What they hold is written in
character references, which CommonMark never takes for structure: no link, image, HTML, heading,
rule, or end of a table's cell can come of them, nor a command to GitHub's runner.
"""

import re
from collections.abc import Sequence

from robustness.runtime.plain import plain

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


def bullets(before: str, sentences: Sequence[str]) -> list[str]:
    """Return a list of sentences from outside, each behind words of ours, and an empty line."""
    lines = [f"- {before}{escaped(text, SENTENCE)}" for text in sentences[:MOST]]
    if len(sentences) > MOST:
        lines.append(f"- and {len(sentences) - MOST} more, all in the JSON report")
    return [*lines, ""] if lines else []


def table(columns: Sequence[str], alignment: str, rows: Sequence[Sequence[str]]) -> list[str]:
    """Return the lines of a table of Markdown cells; a column's alignment is ``l`` or ``r``."""
    rule = ["--:" if side == "r" else "---" for side in alignment]
    return [f"| {' | '.join(cells)} |" for cells in (columns, rule, *rows)]
