"""A run as Markdown: for the summary of a CI job, and for whoever reads a result in a review."""

from collections.abc import Iterable, Sequence

from robustness.report.cells import (
    COLUMNS,
    EXPECTED,
    EXPIRED,
    checkpoints_in_order,
    checks_in_order,
    row_of,
    verdict_of,
    worst_check,
)
from robustness.report.markdown.text import MOST, SENTENCE, bullets, code, escaped, table
from robustness.report.parts import OutlierDimension
from robustness.report.results import CheckpointResult, CheckResult, Report
from robustness.report.terminal.notes import notes
from robustness.report.words import DIMENSIONS, chance, counted, figure, furthest, ranges

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
    checkpoints = checkpoints_in_order(report.vetted)
    parts = [_head(report, checkpoints)]
    room = most_bytes - _bytes(parts[0]) - _NOTICE_BYTES
    shortened = missing = 0
    for checkpoint in checkpoints:
        whole, short = (
            f"\n{checkpoint_section(checkpoint, report, details=details)}"
            for details in (True, False)
        )
        section = next((text for text in (whole, short) if _bytes(text) <= room), "")
        missing += not section
        shortened += section == short
        room -= _bytes(section)
        parts.append(section)
    if missing or shortened:
        parts.append(
            f"\n*Left out for want of room: {counted(missing, 'checkpoint')}, and the details of "
            f"{shortened} more. The JSON report has everything.*\n"
        )
    text = "".join(parts)
    return text if _bytes(text) <= most_bytes else _shortest(report, most_bytes)


def run_verdict(report: Report) -> str:
    """Return ``passed``, ``did not pass``, or what a part of a run can say of itself."""
    if report.passed:
        return "passed"
    if report.exit_status or report.problems:
        return "did not pass"
    if report.shard is not None:
        return f"nothing failed in shard {report.shard}"
    return "partial" if report.partial else "nothing was vetted"


def verdict_sentence(checkpoint: CheckpointResult, *, reason: bool = True) -> str:
    """Say what a checkpoint came to, without its name and without Markdown."""
    checks, refused = checkpoint.checks, checkpoint.refused
    n = counted(len(checks), "check")
    if refused:
        worst = check_sentence(worst_check(checks), reason=reason)
        return f"does not pass {len(refused)} of {n}, first of all {worst}"
    expected = sum(check.outcome == "fail" for check in checks)
    spared = sum(check.outcome == "not applicable" for check in checks)
    exceptions = [f"{expected} fail as expected"] * bool(expected)
    exceptions += [f"{spared} not applicable"] * bool(spared)
    but = f" ({', '.join(exceptions)})" if exceptions else ""
    return f"passes {n}{but}"


def check_sentence(check: CheckResult, *, reason: bool = True) -> str:
    """Say what a check came to with its numbers, without Markdown."""
    name, dims, measured, interval, needed, _, verdict = row_of(check, 0)
    text = name
    if dims:
        text += f" ({dims if 'd' in dims else f'dim {dims}'})"
    text += f": {verdict}"
    if measured:
        text += f", measured {measured}{f' ({interval})' if interval else ''}"
        text += f", needed {needed}" if needed else ""
    return f"{text}; {check.reason}" if reason and check.reason else text


def checkpoint_section(
    checkpoint: CheckpointResult, report: Report, *, details: bool = True
) -> str:
    """Tell of a checkpoint: verdict, checks (the worst first), outlier dimensions, and sources."""
    n_blocks = checkpoint.corpus_text_blocks
    checks = checks_in_order(checkpoint.checks)
    intact = f"{_intact_perplexity(checkpoint)}{_intact_score(checkpoint)}"
    lines = [
        f"### {_sign(checkpoint)} {code(checkpoint.label)}",
        "",
        f"It {escaped(verdict_sentence(checkpoint), SENTENCE)}.{intact}",
        "",
        *table(("", *COLUMNS), "lllrlrrl", [_row(check, n_blocks) for check in checks[:_ROWS]]),
        "",
    ]
    if len(checks) > _ROWS:
        lines += [f"*{len(checks) - _ROWS} more checks are in the JSON report.*", ""]
    lines += bullets("Note: ", list(notes(checkpoint)))
    lines += _outliers(checkpoint)
    return "\n".join([*lines, *(_details(checkpoint, report) if details else [])])


def _head(report: Report, checkpoints: Sequence[CheckpointResult]) -> str:
    lines = [f"## Checkpoint vetting: {run_verdict(report)}", "", _run_sentence(report), ""]
    lines += bullets("**Problem:** ", report.problems)
    if len(checkpoints) > 1:
        rows = [
            (_sign(c), code(c.label), escaped(verdict_sentence(c, reason=False), SENTENCE))
            for c in checkpoints[:MOST]
        ]
        lines += [*table(("", "checkpoint", "verdict"), "lll", rows), ""]
    if len(checkpoints) > MOST:
        lines += [f"*and {len(checkpoints) - MOST} more, which are no worse*", ""]
    return "\n".join(lines)


def _run_sentence(report: Report) -> str:
    text = (
        f"{counted(len(report.vetted), 'checkpoint')}, {counted(len(report.checks), 'check')}, "
        f"all verdicts right with confidence {report.confidence:g}; took "
        f"{_duration(report.duration_s)}."
    )
    if report.partial:
        text += " **Partial**: planned checks were left out; this is no release verdict."
    if report.shard is not None:
        text += " This is one shard: `robustness merge` gives the verdict."
    return text


def _intact_score(checkpoint: CheckpointResult) -> str:
    task = checkpoint.task
    if task is None or task.score is None:
        return ""
    about = "" if task.score_examples == task.examples else "about "
    return (
        f" Its intact {escaped(task.metric)} is {about}{figure(task.score)} on {code(task.name)}."
    )


def _intact_perplexity(checkpoint: CheckpointResult) -> str:
    intact = checkpoint.intact
    if intact is None:
        return ""
    about = "" if intact.text_blocks == checkpoint.corpus_text_blocks else "about "
    value, unit = intact.perplexity, ""
    if value is None:
        value, unit = intact.nats_per_token, " nats per token"
    return (
        f" Its intact {escaped(checkpoint.quantity)} is {about}{figure(value)}{unit} on "
        f"{code(checkpoint.corpus)}."
    )


def _row(check: CheckResult, n_blocks: int) -> list[str]:
    *cells, verdict = row_of(check, n_blocks)
    shown = escaped(verdict) if verdict == "pass" else f"**{escaped(verdict)}**"
    return [SIGNS.get(verdict, ""), *map(escaped, cells), shown]


def _outliers(checkpoint: CheckpointResult) -> list[str]:
    outliers = checkpoint.outliers
    by_chance = chance(checkpoint.expected_by_chance)
    title = f"**Outlier dimensions** by {code(checkpoint.rule)} (by chance: {by_chance})"
    if not outliers:
        return [f"{title}: none", ""]
    rows = [
        (
            str(outlier.dim),
            f"{len(outlier.layers)} of {checkpoint.layers}: {ranges(outlier.layers)}",
            escaped(", ".join(_extent(outlier))),
        )
        for outlier in outliers[:DIMENSIONS]
    ]
    lines = [f"{title}:", "", *table(("dimension", "layers", "how far out"), "rll", rows), ""]
    if len(outliers) > DIMENSIONS:
        lines += [f"*and {len(outliers) - DIMENSIONS} more*", ""]
    return lines


def _extent(outlier: OutlierDimension) -> Iterable[str]:
    for name, z in (("scale", outlier.z_scale), ("bias", outlier.z_bias)):
        if z is not None:
            yield f"{name} {furthest(z)} std"
    for name, values in outlier.statistics.items():
        yield f"{name} {figure(max(values, key=abs))}"


def _details(checkpoint: CheckpointResult, report: Report) -> list[str]:
    rows = [(name, code(text, SENTENCE)) for name, text in _provenance(checkpoint, report) if text]
    return [
        "<details><summary>Where this comes from</summary>",
        "",
        *table(("what", "which"), "ll", rows),
        "",
        *bullets("Note: ", checkpoint.notes),
        "</details>",
        "",
    ]


def _provenance(checkpoint: CheckpointResult, report: Report) -> Iterable[tuple[str, str]]:
    versions = {"pytest-robustness": report.robustness, **report.versions}
    then = checkpoint.baseline
    yield "checkpoint", f"{checkpoint.reference} at {checkpoint.revision}"
    yield (
        "model",
        f"{checkpoint.architecture}, {checkpoint.layers} layers x "
        f"{checkpoint.hidden_size}, {checkpoint.parameters:,} parameters",
    )
    yield "baseline", "" if then is None else f"{then.reference} at {then.revision}"
    if checkpoint.has_perplexity:
        yield (
            "corpus",
            f"{checkpoint.corpus}: {checkpoint.corpus_text_blocks} text blocks of at most "
            f"{checkpoint.block_size} tokens",
        )
    if (task := checkpoint.task) is not None:
        yield "task", f"{task.reference}: {task.examples} examples of {task.kind}, {task.metric}"
    yield (
        "ablated",
        f"site {checkpoint.site}, mode {checkpoint.mode}, layers {checkpoint.ablated_layers}",
    )
    yield (
        "measured",
        f"{checkpoint.scoring} scoring, {checkpoint.dtype} on {checkpoint.device}, seed "
        f"{checkpoint.seed}, expectation {checkpoint.expectation}"
        + (", exhaustive" if checkpoint.exhaustive else ""),
    )
    yield "policy", report.policy or "defaults"
    yield "versions", ", ".join(f"{name} {version}" for name, version in versions.items())
    yield "started", report.started
    yield "command", report.command or ""


def _sign(checkpoint: CheckpointResult) -> str:
    return SIGNS.get(verdict_of(worst_check(checkpoint.checks)), "")


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def _bytes(text: str) -> int:
    return len(text.encode())


def _shortest(report: Report, most_bytes: int) -> str:
    """Return the verdict alone, or nothing if there is no room even for that."""
    text = f"## Checkpoint vetting: {run_verdict(report)}\n\n*All else was left out: no room.*\n"
    return text if _bytes(text) <= most_bytes else ""
