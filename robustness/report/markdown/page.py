"""A run as Markdown: for the summary of a CI job, for ``robustness report``, for a model card."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from robustness.report.facts import is_accepted
from robustness.report.markdown.text import MOST, SENTENCE, bullets, code, escaped, table
from robustness.report.markdown.worst import checkpoints_in_order, checks_in_order, worst_check
from robustness.report.terminal.notes import notes
from robustness.report.terminal.table import COLUMNS, EXPECTED, row_of
from robustness.report.terminal.wording import DIMENSIONS, chance, check_name, figure, ranges

MOST_BYTES = 1024**2
"""GitHub drops the summary of a step that is larger."""

SIGNS = {
    "pass": "\N{WHITE HEAVY CHECK MARK}",
    "fail": "\N{CROSS MARK}",
    "fail (mark expired)": "\N{CROSS MARK}",
    "error": "\N{COLLISION SYMBOL}",
    "inconclusive": "\N{BLACK QUESTION MARK ORNAMENT}",
    EXPECTED: "\N{LARGE YELLOW CIRCLE}",
    "not applicable": "\N{MEDIUM WHITE CIRCLE}",
}

_ROWS = 200
"""Checks of one table."""
_NOTICE_BYTES = 300
"""Kept free for the sentence on what is left out."""


def to_markdown(facts: Mapping[str, Any], most_bytes: int = MOST_BYTES) -> str:
    """A whole run: the verdict, and a section per checkpoint, the worst first.

    Args:
        facts: the JSON report, of a run or of merged shards.
        most_bytes: size in UTF-8 that is never exceeded: where needed details are left out, then
            whole sections, and it says so.
    """
    checkpoints = checkpoints_in_order([c for c in facts["checkpoints"] if c["checks"]])
    parts = [_head(facts, checkpoints)]
    room = most_bytes - _bytes(parts[0]) - _NOTICE_BYTES
    shortened = missing = 0
    for checkpoint in checkpoints:
        whole, short = (
            f"\n{checkpoint_section(checkpoint, facts, details=details)}"
            for details in (True, False)
        )
        section = next((text for text in (whole, short) if _bytes(text) <= room), "")
        missing += not section
        shortened += section == short
        room -= _bytes(section)
        parts.append(section)
    if missing or shortened:
        parts.append(
            f"\n*Left out for want of room: {_counted(missing, 'checkpoint')}, and the details of "
            f"{shortened} more. The JSON report has everything.*\n"
        )
    text = "".join(parts)
    return text if _bytes(text) <= most_bytes else _shortest(facts, most_bytes)


def run_verdict(facts: Mapping[str, Any]) -> str:
    """``passed``, ``did not pass``, or what a part of a run can say of itself."""
    if facts["passed"]:
        return "passed"
    if facts["exit_status"] or facts["problems"]:
        return "did not pass"
    if facts.get("shard"):
        return f"nothing failed in shard {facts['shard']['index']}/{facts['shard']['count']}"
    return "partial" if facts["partial"] else "nothing was vetted"


def verdict_sentence(checkpoint: Mapping[str, Any], *, reason: bool = True) -> str:
    """What a checkpoint came to, without its name and without Markdown.

    Args:
        checkpoint: its facts, with at least one check.
        reason: whether to say why the worst check came to what it did.
    """
    checks = checkpoint["checks"]
    refused = sum(not is_accepted(check) for check in checks)
    if refused:
        worst = check_sentence(worst_check(checks), reason=reason)
        return f"does not pass {refused} of {_counted(len(checks), 'check')}, first of all {worst}"
    expected = sum(check["verdict"] == "fail" for check in checks)
    spared = sum(check["verdict"] == "not applicable" for check in checks)
    exceptions = [f"{expected} fail as expected"] * bool(expected)
    exceptions += [f"{spared} not applicable"] * bool(spared)
    but = f" ({', '.join(exceptions)})" if exceptions else ""
    return f"passes {_counted(len(checks), 'check')}{but}"


def check_sentence(check: Mapping[str, Any], *, reason: bool = True) -> str:
    """A check with its numbers, without Markdown."""
    _, dims, measured, interval, needed, _, verdict = row_of(check, 0)
    text = check_name(check["check"])
    if dims:
        text += f" ({dims if 'd' in dims else f'dim {dims}'})"
    text += f": {verdict}"
    if measured:
        text += f", measured {measured}{f' ({interval})' if interval else ''}"
        text += f", needed {needed}" if needed else ""
    return f"{text}; {check['reason']}" if reason and check["reason"] else text


def checkpoint_section(
    checkpoint: Mapping[str, Any], facts: Mapping[str, Any], *, details: bool = True
) -> str:
    """One checkpoint: verdict, checks (the worst first), outlier dimensions, and where from.

    Args:
        checkpoint: its facts, with at least one check.
        facts: of the run.
        details: whether to say where everything comes from.
    """
    n_blocks = checkpoint["corpus_text_blocks"]
    checks = checks_in_order(checkpoint["checks"])
    lines = [
        f"### {_sign(checkpoint)} {code(checkpoint['label'])}",
        "",
        f"It {escaped(verdict_sentence(checkpoint), SENTENCE)}.{_intact(checkpoint)}",
        "",
        *table(("", *COLUMNS), "lllrlrrl", [_row(check, n_blocks) for check in checks[:_ROWS]]),
        "",
    ]
    if len(checks) > _ROWS:
        lines += [f"*{len(checks) - _ROWS} more checks are in the JSON report.*", ""]
    lines += bullets("Note: ", list(notes(checkpoint["checks"], n_blocks)))
    lines += _outliers(checkpoint)
    return "\n".join([*lines, *(_details(checkpoint, facts) if details else [])])


def _head(facts: Mapping[str, Any], checkpoints: Sequence[Mapping[str, Any]]) -> str:
    lines = [f"## Checkpoint vetting: {run_verdict(facts)}", "", _run_sentence(facts), ""]
    lines += bullets("**Problem:** ", facts["problems"])
    if len(checkpoints) > 1:
        rows = [
            (_sign(c), code(c["label"]), escaped(verdict_sentence(c, reason=False), SENTENCE))
            for c in checkpoints[:MOST]
        ]
        lines += [*table(("", "checkpoint", "verdict"), "lll", rows), ""]
    if len(checkpoints) > MOST:
        lines += [f"*and {len(checkpoints) - MOST} more, which are no worse*", ""]
    return "\n".join(lines)


def _run_sentence(facts: Mapping[str, Any]) -> str:
    checks = sum(len(checkpoint["checks"]) for checkpoint in facts["checkpoints"])
    vetted = sum(bool(checkpoint["checks"]) for checkpoint in facts["checkpoints"])
    text = (
        f"{_counted(vetted, 'checkpoint')}, {_counted(checks, 'check')}, all verdicts right with "
        f"confidence {facts['confidence']:g}; took {_duration(facts['duration_s'])}."
    )
    if facts["partial"]:
        text += " **Partial**: planned checks were left out; this is no release verdict."
    if facts.get("shard"):
        text += " This is one shard: `robustness merge` gives the verdict."
    return text


def _intact(checkpoint: Mapping[str, Any]) -> str:
    return f"{_intact_perplexity(checkpoint)}{_intact_score(checkpoint)}"


def _intact_score(checkpoint: Mapping[str, Any]) -> str:
    task = checkpoint.get("task")
    if task is None or task["score"] is None:
        return ""
    about = "" if task["score_examples"] == task["examples"] else "about "
    return (
        f" Its intact {escaped(task['metric'])} is {about}{figure(task['score'])} on "
        f"{code(task['name'])}."
    )


def _intact_perplexity(checkpoint: Mapping[str, Any]) -> str:
    if checkpoint["nats_per_token"] is None:
        return ""
    whole = checkpoint["perplexity_text_blocks"] == checkpoint["corpus_text_blocks"]
    value, unit = checkpoint["perplexity"], ""
    if value is None:
        value, unit = checkpoint["nats_per_token"], " nats per token"
    return (
        f" Its intact {escaped(checkpoint['quantity'])} is {'' if whole else 'about '}"
        f"{figure(value)}{unit} on {code(checkpoint['corpus'])}."
    )


def _row(check: Mapping[str, Any], n_blocks: int) -> list[str]:
    *cells, verdict = row_of(check, n_blocks)
    shown = escaped(verdict) if verdict == "pass" else f"**{escaped(verdict)}**"
    return [SIGNS.get(verdict, ""), *map(escaped, cells), shown]


def _outliers(checkpoint: Mapping[str, Any]) -> list[str]:
    outliers = checkpoint["outliers"]
    by_chance = chance(checkpoint["expected_by_chance"])
    title = f"**Outlier dimensions** by {code(checkpoint['rule'])} (by chance: {by_chance})"
    if not outliers:
        return [f"{title}: none", ""]
    rows = [
        (
            str(outlier["dim"]),
            f"{len(outlier['layers'])} of {checkpoint['layers']}: {ranges(outlier['layers'])}",
            escaped(", ".join(_extent(outlier))),
        )
        for outlier in outliers[:DIMENSIONS]
    ]
    lines = [f"{title}:", "", *table(("dimension", "layers", "how far out"), "rll", rows), ""]
    if len(outliers) > DIMENSIONS:
        lines += [f"*and {len(outliers) - DIMENSIONS} more*", ""]
    return lines


def _extent(outlier: Mapping[str, Any]) -> Iterable[str]:
    for name in ("scale", "bias"):
        if outlier[f"z_{name}"] is not None:
            yield f"{name} {max(map(float, outlier[f'z_{name}']), key=abs):+.1f} std"
    for name, values in outlier["statistics"].items():
        yield f"{name} {figure(max(map(float, values), key=abs))}"


def _details(checkpoint: Mapping[str, Any], facts: Mapping[str, Any]) -> list[str]:
    """Where everything comes from, folded."""
    rows = [(name, code(text, SENTENCE)) for name, text in _provenance(checkpoint, facts) if text]
    return [
        "<details><summary>Where this comes from</summary>",
        "",
        *table(("what", "which"), "ll", rows),
        "",
        *bullets("Note: ", checkpoint["notes"]),
        "</details>",
        "",
    ]


def _provenance(
    checkpoint: Mapping[str, Any], facts: Mapping[str, Any]
) -> Iterable[tuple[str, str]]:
    versions = {"pytest-robustness": facts["robustness"], **facts["versions"]}
    then = checkpoint["baseline"]
    yield "checkpoint", f"{checkpoint['reference']} at {checkpoint['revision']}"
    yield (
        "model",
        f"{checkpoint['architecture']}, {checkpoint['layers']} layers x "
        f"{checkpoint['hidden_size']}, {checkpoint['parameters']:,} parameters",
    )
    yield "baseline", "" if then is None else f"{then['reference']} at {then['revision']}"
    if checkpoint["scoring"] != "task":
        yield (
            "corpus",
            f"{checkpoint['corpus']}: {checkpoint['corpus_text_blocks']} text blocks of at most "
            f"{checkpoint['block_size']} tokens",
        )
    if (task := checkpoint.get("task")) is not None:
        yield (
            "task",
            f"{task['reference']}: {task['examples']} examples of {task['kind']}, {task['metric']}",
        )
    yield (
        "ablated",
        f"site {checkpoint['site']}, mode {checkpoint['mode']}, layers "
        f"{checkpoint['ablated_layers']}",
    )
    yield (
        "measured",
        f"{checkpoint['scoring']} scoring, {checkpoint['dtype']} on {checkpoint['device']}, seed "
        f"{checkpoint['seed']}, expectation {checkpoint['expectation']}"
        + (", exhaustive" if checkpoint["exhaustive"] else ""),
    )
    yield "policy", facts["policy"] or "defaults"
    yield "versions", ", ".join(f"{name} {version}" for name, version in versions.items())
    yield "started", facts["started"]
    yield "command", facts.get("command") or ""


def _sign(checkpoint: Mapping[str, Any]) -> str:
    return SIGNS.get(row_of(worst_check(checkpoint["checks"]), 0)[-1], "")


def _counted(n: int, noun: str) -> str:
    return f"{n} {noun}{'s' * (n != 1)}"


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def _bytes(text: str) -> int:
    return len(text.encode())


def _shortest(facts: Mapping[str, Any], most_bytes: int) -> str:
    """The verdict alone; nothing where there is no room even for that."""
    text = f"## Checkpoint vetting: {run_verdict(facts)}\n\n*All else was left out: no room.*\n"
    return text if _bytes(text) <= most_bytes else ""
