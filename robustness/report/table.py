"""The table of a checkpoint's checks."""

from collections.abc import Mapping
from typing import Any

from robustness.report.wording import bound, check_name, figure, in_short

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
    return (
        check_name(check["check"]),
        f"{len(dims)} random" if "draws" in check["details"] else in_short(dims),
        "" if check["ratio"] is None else figure(check["ratio"]),
        _interval(check),
        _needed(check),
        f"{blocks}{'*' * (blocks > n_blocks)}" if blocks else "",
        _verdict(check),
    )


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


def aligned(text: str, width: int, column: int) -> str:
    """A cell in its column: numbers to the right, words to the left."""
    to_the_right = COLUMNS[column] in ("measured", "needed", "blocks")
    return text.rjust(width) if to_the_right else text.ljust(width)
