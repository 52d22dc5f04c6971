"""The terminal report: a header before the run, one table per checkpoint after it."""

import math
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

from robustness.detection import Examination
from robustness.layer_profile import described
from robustness.outlier_dimensions import named
from robustness.plain import plain
from robustness.plan import PlannedCheckpoint, RunPlan
from robustness.policy import Settings

COLUMNS = ("check", "dims", "measured", "interval", "needed", "blocks", "verdict")
WIDTH = 100
"""Of lines of text; a table may need more."""
EXPECTED = "fail (expected)"
DIMENSIONS = 16
"""Listed at most; the JSON report has them all."""
MARKUP: Mapping[str, Mapping[str, bool]] = {
    "pass": {"green": True},
    "fail": {"red": True, "bold": True},
    "fail (mark expired)": {"red": True, "bold": True},
    "error": {"red": True, "bold": True},
    EXPECTED: {"yellow": True},
    "inconclusive": {"yellow": True, "bold": True},
    "not applicable": {"cyan": True},
}


class Reporter(Protocol):
    """The part of pytest's terminal reporter that is used here."""

    def write_sep(self, sep: str, title: str | None = None, **markup: bool) -> None:
        """A line across the terminal."""

    def write_line(self, line: str | bytes, **markup: bool) -> None:
        """A line."""

    def write(self, content: str, *, flush: bool = False, **markup: bool) -> None:
        """A piece of a line."""


def header(plan: RunPlan) -> list[str]:
    """What is vetted and how, one paragraph per checkpoint."""
    lines = [
        f"robustness: {plan.comparisons} comparisons, together right with confidence "
        f"{plan.confidence:g} (alpha = {plan.alpha:.3g} each); policy: "
        f"{plan.policy_source or 'defaults'}; store: {plan.store_root}"
    ]
    if plan.shard is not None:
        lines.append(
            f"robustness: shard {plan.shard['index']}/{plan.shard['count']} with "
            f"{len(plan.shard['expected'])} of {sum(map(len, plan.shard['all'].values()))} checks; "
            "'robustness merge' gives the verdict"
        )
    for planned in plan.checkpoints:
        lines += _checkpoint_header(planned)
    return [part for line in lines for part in _wrapped(line)]


def plan_lines(plan: RunPlan, described: Mapping[str, Sequence[str]]) -> list[str]:
    """What would run and what it would cost, for ``--robustness-plan``."""
    lines = header(plan)
    for label, parts in described.items():
        lines += ["", f"{label}:", *(line for part in parts for line in _wrapped(f"  {part}"))]
    return [*lines, "", "robustness: a plan only, nothing was measured"]


def partial(left_out: int, planned: int) -> list[str]:
    """The line on a selection, if there was one."""
    if not left_out:
        return []
    return [
        f"robustness: PARTIAL, {left_out} of {planned} planned checks are left out; this run will "
        "be no release verdict"
    ]


def _wrapped(line: str) -> list[str]:
    """A line in pieces that fit the width, indented more from the second on.

    What has no spaces, like a path, stays whole. No name in it can be more than text.
    """
    indent = line[: len(line) - len(line.lstrip())]
    lines = textwrap.wrap(
        line.strip(),
        WIDTH,
        initial_indent=indent,
        subsequent_indent=f"{indent}  ",
        break_long_words=False,
        break_on_hyphens=False,
    )
    return [plain(line, limit=None) for line in lines]


def _checkpoint_header(planned: PlannedCheckpoint) -> list[str]:
    checkpoint, settings, found = planned.checkpoint, planned.settings, planned.examination
    return [
        f"{planned.label}: {checkpoint['reference']} at {checkpoint['revision']}",
        f"  {checkpoint['architecture']}, {_stack(found)}, "
        f"{_amount(checkpoint['n_parameters'])} parameters, "
        f"{_precision(planned.dtype)} on {settings.device}",
        f"  {_measured_on(planned)}, seed {settings.seed}, profile {settings.profile}"
        + (", exhaustive" if settings.exhaustive else ""),
        *_place(settings),
        *(f"  {each.rule}: {_listed(each.dims)}" for each in found.detections),
        *_baseline_header(planned),
        *(f"  note: {note}" for note in planned.notes),
    ]


def _measured_on(planned: PlannedCheckpoint) -> str:
    parts = []
    if planned.has_perplexity:
        parts.append(
            f"corpus {planned.corpus}: {planned.text_blocks} text blocks of at most "
            f"{planned.block_size} tokens; {planned.checkpoint['scoring']} scoring"
            f"{planned.settings.scoring_options.deviations()}"
        )
    if (task := planned.task) is not None:
        where = (
            ""
            if task.checkpoint["architecture"] == planned.checkpoint["architecture"]
            else (f", as {task.checkpoint['architecture']}")
        )
        parts.append(
            f"task {task.name}: {task.examples} examples of {task.kind}, {task.metric}{where}"
        )
    return "; ".join(parts)


def _stack(found: Examination) -> str:
    size = f"{found.layers} layers x {found.hidden_size}"
    return size if found.stack == "only" else f"{size} in the {found.stack}, which is vetted"


def _listed(dims: Sequence[int]) -> str:
    """A few dimensions; the JSON report has them all."""
    shown = ", ".join(map(str, dims[:DIMENSIONS])) or "none"
    return f"{shown} and {len(dims) - DIMENSIONS} more" if len(dims) > DIMENSIONS else shown


def _precision(dtype: str) -> str:
    return "float32" if dtype == "float32" else f"float32 and, where that suffices, {dtype}"


def _baseline_header(planned: PlannedCheckpoint) -> list[str]:
    profile = planned.baseline
    if profile is None:
        return []
    return [
        f"  baseline: {profile.reference} at {profile.revision}, {profile.held} of "
        f"{profile.text_blocks} text blocks"
    ]


def _place(settings: Settings) -> Iterable[str]:
    """Where and how dimensions are ablated, where it is not as by default."""
    if where := settings.ablation((0,)).where:
        yield f"  ablations{where}"


def _amount(n: int) -> str:
    for size, unit in ((10**9, "B"), (10**6, "M"), (10**3, "k")):
        if n >= size:
            return f"{n / size:.3g} {unit}"
    return str(n)


def write_summary(reporter: Reporter, facts: Mapping[str, Any], problems: Sequence[str]) -> None:
    """The tables, and why the run fails if it does."""
    for checkpoint in facts["checkpoints"]:
        if checkpoint["checks"]:
            partial = " (PARTIAL)" if facts["partial"] else ""
            reporter.write_sep("=", f"robustness: {checkpoint['label']}{partial}", bold=True)
            _write_checkpoint(reporter, checkpoint)
    if facts["partial"] and any(checkpoint["checks"] for checkpoint in facts["checkpoints"]):
        reporter.write_line(
            "PARTIAL: some of the planned checks were not selected; this run is no release verdict",
            yellow=True,
            bold=True,
        )
    for problem in problems:
        reporter.write_line(plain(f"robustness: {problem}"), red=True, bold=True)


def _write_checkpoint(reporter: Reporter, checkpoint: Mapping[str, Any]) -> None:
    for paragraph in _findings(checkpoint):
        for line in _wrapped(paragraph):
            reporter.write_line(line)
    for line in _comparison(checkpoint):
        reporter.write_line(line)
    reporter.write_line("")
    n_blocks = checkpoint["corpus_text_blocks"]
    rows = [COLUMNS, *(_row(check, _total(check, n_blocks)) for check in checkpoint["checks"])]
    widths = [max(len(row[column]) for row in rows) for column in range(len(COLUMNS))]
    for number, row in enumerate(rows):
        line = "  ".join(_aligned(row[i], widths[i], i) for i in range(len(COLUMNS) - 1))
        reporter.write(f"{line}  ", bold=number == 0)
        markup = MARKUP.get(row[-1], {"bold": True})
        reporter.write_line(row[-1], **markup)
    for note in _notes(checkpoint["checks"], n_blocks):
        for line in _wrapped(note):
            reporter.write_line(line)


def _findings(checkpoint: Mapping[str, Any]) -> Iterable[str]:
    """What there is to say before the table."""
    if checkpoint["nats_per_token"] is not None:
        whole = checkpoint["perplexity_text_blocks"] == checkpoint["corpus_text_blocks"]
        about = "" if whole else "about "
        yield (
            f"intact {checkpoint['quantity']} {about}{_intact(checkpoint)} over "
            f"{checkpoint['perplexity_text_blocks']} of {checkpoint['corpus_text_blocks']} text "
            f"blocks ({checkpoint['perplexity_tokens']} scored tokens) of {checkpoint['corpus']}"
        )
    if checkpoint["bits_per_byte"] is not None:
        words = checkpoint["word_perplexity"]
        per_word = "" if words is None else f"{_figure(words)} per word, "
        yield (
            f"  that is {per_word}{_figure(checkpoint['byte_perplexity'])} per byte, "
            f"{_figure(checkpoint['bits_per_byte'])} bits per byte"
        )
    task = checkpoint.get("task")
    if task is not None and task["score"] is not None:
        about = "" if task["score_examples"] == task["examples"] else "about "
        yield (
            f"intact {task['metric']} {about}{_figure(task['score'])} over "
            f"{task['score_examples']} of {task['examples']} examples of {task['name']}"
        )
    yield (
        f"outlier dimensions, {checkpoint['rule']} "
        f"(by chance: {_chance(checkpoint['expected_by_chance'])})"
    )
    for outlier in checkpoint["outliers"][:DIMENSIONS]:
        yield f"  {_outlier(outlier, checkpoint['layers'])}"
    if len(checkpoint["outliers"]) > DIMENSIONS:
        yield f"  and {len(checkpoint['outliers']) - DIMENSIONS} more"
    if not checkpoint["outliers"]:
        yield "  none"


def _intact(checkpoint: Mapping[str, Any]) -> str:
    """The perplexity, or a loss beside what a guess that looks at no text would have."""
    if checkpoint["perplexity"] is not None:
        return _figure(checkpoint["perplexity"])
    loss, chance = checkpoint["nats_per_token"], checkpoint["chance_nats_per_token"]
    return f"{_figure(loss)} nats per token (by chance: {_figure(chance)})"


def _chance(expected: float | None) -> str:
    return "not defined" if expected is None else f"{expected:.2g}"


def _comparison(checkpoint: Mapping[str, Any]) -> Iterable[str]:
    """Which rules found which dimensions, if several were asked for."""
    names = [rule["rule"] for rule in checkpoint["rules"]]
    if len(names) < 2:
        return
    agreement = checkpoint["agreement"]
    rows = [["rules agree on", *names]]
    for entry in agreement[:DIMENSIONS]:
        marks = ["x" if name in entry["rules"] else "." for name in names]
        rows.append([f"dimension {entry['dim']}", *marks])
    rows.append(["dimensions", *(str(len(rule["dims"])) for rule in checkpoint["rules"])])
    chances = (rule["expected_by_chance"] for rule in checkpoint["rules"])
    rows.append(["by chance", *("-" if c is None else _chance(c) for c in chances)])
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        cells = [text.ljust(width) for text, width in zip(row, widths, strict=True)]
        yield "  ".join(cells).rstrip()
    if len(agreement) > DIMENSIONS:
        yield f"and {len(agreement) - DIMENSIONS} more dimensions, all in the JSON report"
    yield f"What is ablated are the dimensions of {names[0]}, the rule named first."


def _aligned(text: str, width: int, column: int) -> str:
    return (
        text.rjust(width)
        if COLUMNS[column] in ("measured", "needed", "blocks")
        else text.ljust(width)
    )


def _outlier(outlier: Mapping[str, Any], n_layers: int) -> str:
    found = []
    if outlier["z_scale"] is not None:
        found.append(f"scale up to {_extreme(outlier['z_scale'])} std")
    if outlier["z_bias"] is not None:
        found.append(f"bias {_extreme(outlier['z_bias'])} std")
    for name, values in outlier["statistics"].items():
        found.append(f"{name} up to {_figure(max(map(float, values), key=abs))}")
    return (
        f"dimension {outlier['dim']} in {len(outlier['layers'])} of {n_layers} layers "
        f"({_ranges(outlier['layers'])}): {', '.join(found)}"
    )


def _extreme(z: Sequence[float]) -> str:
    return f"{max(z, key=abs):+.1f}"


def _ranges(numbers: Sequence[int]) -> str:
    """``0-3, 5``."""
    parts: list[list[int]] = []
    for number in numbers:
        if parts and number == parts[-1][-1] + 1:
            parts[-1][1:] = [number]
        else:
            parts.append([number])
    return ", ".join("-".join(map(str, part)) for part in parts)


def _row(check: Mapping[str, Any], n_blocks: int) -> tuple[str, ...]:
    interval = check["interval"]
    shown = "exact" if check["exact"] else ""
    if interval is not None:
        shown = " to ".join(map(_bound, interval))
    return (
        check["check"].removeprefix("test_").replace("_", " "),
        f"{len(check['dims'])} random" if _is_random(check) else _dims(check["dims"]),
        "" if check["ratio"] is None else _figure(check["ratio"]),
        shown,
        _needed(check),
        f"{check['text_blocks']}{'*' if check['text_blocks'] > n_blocks else ''}"
        if check["text_blocks"]
        else "",
        _verdict(check),
    )


def _total(check: Mapping[str, Any], n_blocks: int) -> int:
    """All that there is to measure: text blocks of the corpus, or examples of the task."""
    return int(check["details"].get("task_examples", n_blocks))


def _is_random(check: Mapping[str, Any]) -> bool:
    return "draws" in check["details"] or "task_draws" in check["details"]


def _verdict(check: Mapping[str, Any]) -> str:
    expected = check.get("expected_failure")
    if check["verdict"] != "fail" or expected is None:
        return str(check["verdict"])
    return "fail (mark expired)" if expected["expired"] else EXPECTED


def _expectations(checks: Sequence[Mapping[str, Any]]) -> Iterable[str]:
    """Failures that the policy expects, once per kind of check."""
    marks = {
        check["check"]: check["expected_failure"]
        for check in checks
        if check.get("expected_failure") is not None
    }
    for test, mark in marks.items():
        name = test.removeprefix("test_").replace("_", " ")
        state = "was expected" if mark["expired"] else "is expected"
        yield f"{name} {state} to fail until {mark['expires']}: {mark['reason']}"


def _dims(dims: Sequence[int]) -> str:
    return ", ".join(map(str, dims)) if len(dims) <= 2 else f"{len(dims)} dims"


def _needed(check: Mapping[str, Any]) -> str:
    if check["threshold"] is None:
        return ""
    sign = {"below": "<", "above": ">=", None: ""}[check["passes"]]
    return f"{sign} {_figure(check['threshold'])}".strip()


def _bound(value: float | str) -> str:
    number = float(value)
    return f"{number:.1e}" if 0 < number < 1e-2 else f"{number:.4g}"


def _figure(value: float | str) -> str:
    number = float(value)
    if math.isinf(number):
        return "inf"
    return f"{number:.4g}" if not number or 1e-3 <= abs(number) < 1e5 else f"{number:.2e}"


def _notes(checks: Sequence[Mapping[str, Any]], n_blocks: int) -> Iterable[str]:
    """What there is to say after the table."""
    yield from _passes(checks, n_blocks)
    yield from _task_notes(checks)
    for check in checks:
        details = check["details"]
        if details.get("worst_draws"):
            worst, tokens = details["worst_draws"][0], check["tokens"] // details["draws"]
            yield (
                f"random control: {details['draws']} draws of about {tokens} tokens each, mean "
                f"{_figure(details['mean_ratio'])}, highest {_figure(worst['ratio'])} "
                f"({named(worst['dims'])}; a single draw is noisy)"
            )
        if profile := details.get("layer_profile"):
            yield described([float(layer["ratio"]) for layer in profile])
    yield from _expectations(checks)
    yield from _precision_notes(checks)
    for unit, of_task in (("text blocks", False), ("examples", True)):
        shares = [
            share
            for check in checks
            if ("task" in check["details"]) is of_task
            and (share := check["details"].get("blind_share"))
        ]
        if shares:
            what = "a drop" if of_task else "a ratio"
            yield (
                f"where {what} was found to lie below its threshold, an effect confined to fewer "
                f"than {max(shares):.0%} of the {unit} could go unseen; --robustness-exhaustive "
                "rules that out"
            )


def _passes(checks: Sequence[Mapping[str, Any]], n_blocks: int) -> Iterable[str]:
    """How often all was measured, where random draws needed that."""
    for of_task in (False, True):
        some = [check for check in checks if ("task" in check["details"]) is of_task]
        most = max((check["text_blocks"] for check in some), default=0)
        total = max((_total(check, n_blocks) for check in some), default=0)
        if most > total > 0:
            what = (
                f"the task's {total} examples"
                if of_task
                else (f"the corpus of {total} text blocks")
            )
            yield f"* in up to {math.ceil(most / total)} passes over {what}"


def _task_notes(checks: Sequence[Mapping[str, Any]]) -> Iterable[str]:
    """What the table does not show of a task's checks: scores, and that drops are differences."""
    of_task = [check for check in checks if "ablated_score" in check["details"]]
    if not of_task:
        return
    yield (
        "of a task's checks, blocks are examples, and measured is how far the score drops (of "
        "outliers matter more for task: the ratio of two drops)"
    )
    for check in of_task:
        details = check["details"]
        if check["check"] == "test_task_score_drops":
            yield (
                f"{details['metric']} without {named(check['dims'])}: "
                f"{_figure(details['ablated_score'])}, intact {_figure(details['intact_score'])} "
                f"on the same {details['examples']} examples"
            )


def _precision_notes(checks: Sequence[Mapping[str, Any]]) -> Iterable[str]:
    """Which checks used reduced precision, which could not, and what the discrepancy was."""
    for check in checks:
        details = check["details"]
        if "reduced_precision" not in details:
            continue
        costs = [float(each["slack_nats"]) for each in details["reduced_precision"]]
        near = details["dtype"] == "float32"
        yield (
            f"{check['check'].removeprefix('test_').replace('_', ' ')}, {_dims(check['dims'])}: "
            f"reduced precision moves ΔNLL by up to {max(costs):.2g} nats per text block, "
            + ("too much so near the threshold: float32" if near else f"used: {details['dtype']}")
        )
