"""What the terminal says around the table of a checkpoint's checks."""

import math
from collections.abc import Iterable, Sequence

from robustness.checks import layer_sweep, quantization
from robustness.checks.reference import ReferenceCheck
from robustness.checks.registry import CHECKS
from robustness.report.cells import total_of
from robustness.report.parts import OutlierDimension
from robustness.report.results import CheckpointResult, CheckResult
from robustness.report.words import (
    DIMENSIONS,
    bound,
    chance,
    figure,
    furthest,
    in_short,
    named,
    ranges,
)
from robustness.statistics.figures import IntactFigures


def findings(checkpoint: CheckpointResult) -> Iterable[str]:
    """Say what there is to say before the table."""
    if checkpoint.intact is not None:
        yield from _intact(checkpoint, checkpoint.intact)
    task = checkpoint.task
    if task is not None and task.score is not None:
        about = "" if task.score_examples == task.examples else "about "
        yield (
            f"intact {task.metric} {about}{figure(task.score)} over "
            f"{task.score_examples} of {task.examples} examples of {task.name}"
        )
    yield (
        f"outlier dimensions, {checkpoint.rule} "
        f"(by chance: {chance(checkpoint.expected_by_chance)})"
    )
    for outlier in checkpoint.outliers[:DIMENSIONS]:
        yield f"  {_outlier(outlier, checkpoint.layers)}"
    if len(checkpoint.outliers) > DIMENSIONS:
        yield f"  and {len(checkpoint.outliers) - DIMENSIONS} more"
    if not checkpoint.outliers:
        yield "  none"


def _intact(checkpoint: CheckpointResult, intact: IntactFigures) -> Iterable[str]:
    if intact.perplexity is not None:
        value = figure(intact.perplexity)
    else:
        by_chance = figure(intact.chance_nats_per_token)
        value = f"{figure(intact.nats_per_token)} nats per token (by chance: {by_chance})"
    about = "" if intact.text_blocks == checkpoint.corpus_text_blocks else "about "
    yield (
        f"intact {checkpoint.quantity} {about}{value} over "
        f"{intact.text_blocks} of {checkpoint.corpus_text_blocks} text "
        f"blocks ({intact.tokens} scored tokens) of {checkpoint.corpus}"
    )
    text = intact.text
    if text and text.byte_perplexity is not None and text.bits_per_byte is not None:
        words = text.word_perplexity
        per_word = "" if words is None else f"{figure(words)} per word, "
        yield (
            f"  that is {per_word}{figure(text.byte_perplexity)} per byte, "
            f"{figure(text.bits_per_byte)} bits per byte"
        )


def comparison(checkpoint: CheckpointResult) -> Iterable[str]:
    """Show which rules found which dimensions, if several were asked for."""
    names = [rule.rule for rule in checkpoint.rules]
    if len(names) < 2:
        return
    rows = [["rules agree on", *names]]
    for entry in checkpoint.agreement[:DIMENSIONS]:
        marks = ["x" if name in entry.rules else "." for name in names]
        rows.append([f"dimension {entry.dim}", *marks])
    rows.append(["dimensions", *(str(len(rule.dims)) for rule in checkpoint.rules)])
    chances = (rule.expected_by_chance for rule in checkpoint.rules)
    rows.append(["by chance", *("-" if c is None else chance(c) for c in chances)])
    yield from _aligned(rows)
    if (more := len(checkpoint.agreement) - DIMENSIONS) > 0:
        yield f"and {more} more dimensions, all in the JSON report"
    yield f"What is ablated are the dimensions of {names[0]}, the rule named first."


def side_by_side(checkpoints: Sequence[CheckpointResult]) -> Iterable[str]:
    """Return a line per candidate where several are held against a reference."""
    candidates = [each for each in checkpoints if each.compared_with is not None]
    if len(candidates) < 2:
        return
    cells: list[dict[str, str]] = []
    for candidate in candidates:
        found: dict[str, str] = {}
        for check in candidate.checks:
            if isinstance(check.specification, ReferenceCheck) and check.measured is not None:
                mark = "" if check.is_accepted else " !"
                found.setdefault(check.specification.column, f"{figure(check.measured)}{mark}")
        cells.append(found)
    heads = list(dict.fromkeys(head for found in cells for head in found))
    rows = [["beside the reference", *heads, "verdict"]]
    for candidate, found in zip(candidates, cells, strict=True):
        verdict = "did not pass" if candidate.refused else "pass"
        rows.append([candidate.label, *(found.get(head, "-") for head in heads), verdict])
    yield ""
    yield from _aligned(rows)


def _aligned(rows: Sequence[Sequence[str]]) -> Iterable[str]:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        cells = [text.ljust(width) for text, width in zip(row, widths, strict=True)]
        yield "  ".join(cells).rstrip()


def _outlier(outlier: OutlierDimension, n_layers: int) -> str:
    parts = []
    if outlier.z_scale is not None:
        parts.append(f"scale up to {furthest(outlier.z_scale)} std")
    if outlier.z_bias is not None:
        parts.append(f"bias {furthest(outlier.z_bias)} std")
    for name, values in outlier.statistics.items():
        parts.append(f"{name} up to {figure(max(values, key=abs))}")
    where = f"in {len(outlier.layers)} of {n_layers} layers ({ranges(outlier.layers)})"
    return f"dimension {outlier.dim} {where}{': ' if parts else ''}{', '.join(parts)}"


def notes(checkpoint: CheckpointResult) -> Iterable[str]:
    """Say what there is to say after the table."""
    checks = checkpoint.checks
    yield from _passes(checks, checkpoint.corpus_text_blocks)
    yield from _task_notes(checks)
    for check in checks:
        draws, details = check.details.draws, check.details
        if draws is not None and draws.worst and details.task is None:
            worst, tokens = draws.worst[0], check.tokens // draws.draws
            yield (
                f"random control: {draws.draws} draws of about {tokens} tokens each, mean "
                f"{figure(draws.mean)}, highest {figure(worst.measured)} "
                f"({named(worst.dims)}; a single draw is noisy)"
            )
        if details.int8 is not None:
            yield quantization.described(details.int8)
        if details.layers:
            yield layer_sweep.described([layer.ratio for layer in details.layers])
    yield from _expectations(checks)
    yield from _precision_notes(checks)
    yield from _blind_shares(checks)


def _blind_shares(checks: Sequence[CheckResult]) -> Iterable[str]:
    """Say what a comparison that ended early could have missed."""
    for unit, what in (("text blocks", "a ratio"), ("examples", "a drop")):
        of_unit = [check.details.blind_share for check in checks if check.unit == unit]
        if shares := [share for share in of_unit if share]:
            yield (
                f"where {what} was found to lie below its threshold, an effect confined to fewer "
                f"than {max(shares):.0%} of the {unit} could go unseen; --robustness-exhaustive "
                "rules that out"
            )


def _passes(checks: Sequence[CheckResult], n_blocks: int) -> Iterable[str]:
    """Say how often all was measured, where random draws needed that."""
    for unit in ("text blocks", "examples"):
        some = [check for check in checks if check.unit == unit]
        most = max((check.seen for check in some), default=0)
        total = max((total_of(check, n_blocks) for check in some), default=0)
        if most > total > 0:
            every = f"corpus of {total}" if unit == "text blocks" else f"task's {total}"
            yield f"* in up to {math.ceil(most / total)} passes over the {every} {unit}"


def factor_of_task() -> str:
    """Return the name of the one check of a task whose number is a factor and no drop."""
    return next(
        check.name.replace("_", " ")
        for check in CHECKS.values()
        if check.role == "factor" and check.source == "task"
    )


def _task_notes(checks: Sequence[CheckResult]) -> Iterable[str]:
    of_task = [(check, check.details.task) for check in checks if check.details.task is not None]
    if not of_task:
        return
    yield (
        "of a task's checks, blocks are examples, and measured is how far the score drops (of "
        f"{factor_of_task()}: the ratio of two drops)"
    )
    for check, task in of_task:
        if check.is_by_dimension:
            yield (
                f"{task.metric} without {named(check.dims)}: "
                f"{figure(task.ablated_score)}, intact {figure(task.intact_score)} "
                f"on the same {task.examples} examples"
            )


def _expectations(checks: Sequence[CheckResult]) -> Iterable[str]:
    marks = {check.name: check.expected_failure for check in checks if check.expected_failure}
    for name, mark in marks.items():
        state = "was expected" if mark.expired else "is expected"
        yield f"{name} {state} to fail until {mark.expires}: {mark.reason}"


def _precision_notes(checks: Sequence[CheckResult]) -> Iterable[str]:
    for check in checks:
        precision = check.details.precision
        if precision is None:
            continue
        most = max((cost.slack_nats for cost in precision.costs), default=0.0)
        near = precision.dtype == "float32"
        yield (
            f"{check.name}, {in_short(check.dims)}: "
            f"reduced precision moves ΔNLL by up to {most:.2g} nats per text block, "
            + ("too much so near the threshold: float32" if near else f"used: {precision.dtype}")
        )


def by_layer(outliers: Sequence[OutlierDimension]) -> Iterable[str]:
    """Say how far out each dimension lies in every layer in which it was found."""
    for outlier in outliers:
        for name, z in (("scale", outlier.z_scale), ("bias", outlier.z_bias)):
            if z is not None:
                pairs = zip(outlier.layers, z, strict=True)
                each = ", ".join(f"{layer}: {value:+.1f}" for layer, value in pairs)
                yield f"  dimension {outlier.dim}, {name} in std by layer: {each}"


def profile_rows(checks: Sequence[CheckResult]) -> Iterable[str]:
    """Return a line per layer of every profile that was measured."""
    for check in checks:
        for layer in check.details.layers:
            ends = "" if layer.interval is None else f" ({' to '.join(map(bound, layer.interval))})"
            yield f"  layer {layer.layer}: x{figure(layer.ratio)}{ends}"
