"""A run as Markdown: for the summary of a CI job, and for whoever reads a result in a review."""

from collections.abc import Iterable
from typing import Any

from robustness.report.cells import (
    EXPECTED,
    EXPIRED,
    RECORDED,
    checkpoints_in_order,
    verdict_of,
    worst_check,
)
from robustness.report.conclusion import conclusion
from robustness.report.markdown.text import environment
from robustness.report.parts import OutlierDimension
from robustness.report.results import CheckpointResult, Report
from robustness.report.words import counted, figure, furthest

MOST_BYTES = 1024**2
"""GitHub drops the summary of a step that is larger."""

SIGNS = {
    "pass": "\N{WHITE HEAVY CHECK MARK}",
    "fail": "\N{CROSS MARK}",
    EXPIRED: "\N{CROSS MARK}",
    "error": "\N{COLLISION SYMBOL}",
    "inconclusive": "\N{BLACK QUESTION MARK ORNAMENT}",
    EXPECTED: "\N{LARGE YELLOW CIRCLE}",
    "not applicable": "\N{MEDIUM WHITE CIRCLE}",
    RECORDED: "\N{MEDIUM WHITE CIRCLE}",
}

_ROWS = 200
"""Checks of one table."""
_NOTICE_BYTES = 300
"""Kept free for the sentence on what is left out."""


def render(report: Report, most_bytes: int = MOST_BYTES) -> str:
    """Tell of a whole run: the verdict, and a section per checkpoint, the worst first.

    ``most_bytes`` of UTF-8 are never exceeded: where needed details are left out, then whole
    sections, and it says so.
    """
    template: Any = environment(
        sign=_sign, extent=_extent, versions=_versions, duration=_duration, run_verdict=run_verdict,
        conclusion=conclusion, SIGNS=SIGNS, MOST_ROWS=_ROWS,
    ).get_template("page.md.j2").module  # fmt: skip
    checkpoints = checkpoints_in_order(report.vetted)
    parts = [template.head(report, checkpoints)]
    room = most_bytes - _bytes(parts[0]) - _NOTICE_BYTES
    shortened = missing = 0
    for checkpoint in checkpoints:
        whole, short = (template.section(checkpoint, report, details) for details in (True, False))
        section = next((text for text in (whole, short) if _bytes(text) <= room), "")
        missing += not section
        shortened += section == short
        room -= _bytes(section)
        parts.append(section)
    if missing or shortened:
        parts.append(
            f"*Left out for want of room: {counted(missing, 'checkpoint')}, and the details of "
            f"{shortened} more. The JSON report has everything.*\n"
        )
    text = "".join(parts).rstrip("\n") + "\n"
    if _bytes(text) > most_bytes:
        text = (
            f"## Checkpoint vetting: {run_verdict(report)}\n\n*All else was left out: no room.*\n"
        )
    return text if _bytes(text) <= most_bytes else ""


def run_verdict(report: Report) -> str:
    """Return ``passed``, ``did not pass``, or what a part of a run can say of itself."""
    if report.passed:
        return "passed"
    if report.exit_status or report.problems:
        return "did not pass"
    if report.shard is not None:
        return f"nothing failed in shard {report.shard}"
    return "partial" if report.partial else "nothing was vetted"


def _extent(outlier: OutlierDimension) -> Iterable[str]:
    for name, z in (("scale", outlier.z_scale), ("bias", outlier.z_bias)):
        if z is not None:
            yield f"{name} {furthest(z)} std"
    for name, values in outlier.statistics.items():
        yield f"{name} {figure(max(values, key=abs))}"


def _versions(report: Report) -> str:
    versions = {"pytest-robustness": report.robustness, **report.versions}
    return ", ".join(f"{name} {version}" for name, version in versions.items())


def _sign(checkpoint: CheckpointResult) -> str:
    return SIGNS.get(verdict_of(worst_check(checkpoint.checks)), "")


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def _bytes(text: str) -> int:
    return len(text.encode())
