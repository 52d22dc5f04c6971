"""The table of a checkpoint's checks."""

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from robustness.report.terminal.wording import WIDTH, bound, check_name, figure, in_short

COLUMNS = ("check", "dims", "measured", "interval", "needed", "blocks", "verdict")
EXPECTED = "fail (expected)"
MARKUP: Mapping[str, Mapping[str, bool]] = {
    "pass": {"green": True},
    "fail": {"red": True, "bold": True},
    "fail (mark expired)": {"red": True, "bold": True},
    "error": {"red": True, "bold": True},
    EXPECTED: {"yellow": True},
    "inconclusive": {"yellow": True, "bold": True},
    "not applicable": {"cyan": True},
}


def row_of(check: Mapping[str, Any], n_blocks: int) -> tuple[str, ...]:
    """The cells of a decided check.

    Args:
        check: its facts.
        n_blocks: text blocks in the corpus.
    """
    dims, blocks = check["dims"], check["text_blocks"]
    total = total_of(check, n_blocks)
    return (
        check_name(check["check"]),
        f"{len(dims)} random" if _is_random(check) else in_short(dims),
        "" if check["ratio"] is None else figure(check["ratio"]),
        _interval(check),
        _needed(check),
        f"{blocks}{'*' * (blocks > total)}" if blocks else "",
        _verdict(check),
    )


def total_of(check: Mapping[str, Any], n_blocks: int) -> int:
    """All that there is to measure: text blocks of the corpus, or examples of the task."""
    return int(check["details"].get("task_examples", n_blocks))


def _is_random(check: Mapping[str, Any]) -> bool:
    return "draws" in check["details"] or "task_draws" in check["details"]


def _interval(check: Mapping[str, Any]) -> str:
    if check["interval"] is None:
        return "exact" if check["exact"] else ""
    return " to ".join(map(bound, check["interval"]))


def _verdict(check: Mapping[str, Any]) -> str:
    expected = check.get("expected_failure")
    if check["verdict"] != "fail" or expected is None:
        return str(check["verdict"])
    return "fail (mark expired)" if expected["expired"] else EXPECTED


def _needed(check: Mapping[str, Any]) -> str:
    if check["threshold"] is None:
        return ""
    sign = {"below": "<", "above": ">=", None: ""}[check["passes"]]
    return f"{sign} {figure(check['threshold'])}".strip()


def laid_out(rows: Sequence[Sequence[str]]) -> list[list[tuple[str, str]]]:
    """For each row its lines, each as what stands before the verdict, and the verdict.

    Where a table would be wider than the terminal is, names of checks go on in a second line.
    """
    widths = [max(len(row[column]) for row in rows) for column in range(len(COLUMNS))]
    excess = sum(widths) + 2 * (len(COLUMNS) - 1) - WIDTH
    longest_word = max(len(word) for row in rows for word in row[0].split())
    gap = "  " if widths[0] - longest_word >= excess else " "
    widths[0] = max(longest_word, widths[0] - max(0, excess))
    found = []
    for row in rows:
        first, *more = textwrap.wrap(row[0], widths[0], break_long_words=False)
        cells = (first, *row[1:-1])
        line = gap.join(aligned(cell, widths[i], i) for i, cell in enumerate(cells))
        found.append([(f"{line}{gap}", row[-1]), *((f"  {part}", "") for part in more)])
    return found


def aligned(text: str, width: int, column: int) -> str:
    """A cell in its column: numbers to the right, words to the left."""
    to_the_right = COLUMNS[column] in ("measured", "needed", "blocks")
    return text.rjust(width) if to_the_right else text.ljust(width)
