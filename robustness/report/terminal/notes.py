"""What the terminal says around the table of a checkpoint's checks."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from robustness.checks.layer_sweep import described
from robustness.checks.quantized_model import described as described_int8
from robustness.outliers.outlier_dimensions import named
from robustness.report.terminal.table import total_of
from robustness.report.terminal.wording import (
    DIMENSIONS,
    bound,
    chance,
    check_name,
    figure,
    in_short,
    ranges,
)


def findings(checkpoint: Mapping[str, Any]) -> Iterable[str]:
    """What there is to say before the table."""
    if checkpoint.get("nats_per_token") is not None:
        whole = checkpoint["perplexity_text_blocks"] == checkpoint["corpus_text_blocks"]
        about = "" if whole else "about "
        yield (
            f"intact {checkpoint['quantity']} {about}{_intact(checkpoint)} over "
            f"{checkpoint['perplexity_text_blocks']} of {checkpoint['corpus_text_blocks']} text "
            f"blocks ({checkpoint['perplexity_tokens']} scored tokens) of {checkpoint['corpus']}"
        )
    if checkpoint.get("bits_per_byte") is not None:
        words = checkpoint.get("word_perplexity")
        per_word = "" if words is None else f"{figure(words)} per word, "
        yield (
            f"  that is {per_word}{figure(checkpoint['byte_perplexity'])} per byte, "
            f"{figure(checkpoint['bits_per_byte'])} bits per byte"
        )
    task = checkpoint.get("task")
    if task is not None and task["score"] is not None:
        about = "" if task["score_examples"] == task["examples"] else "about "
        yield (
            f"intact {task['metric']} {about}{figure(task['score'])} over "
            f"{task['score_examples']} of {task['examples']} examples of {task['name']}"
        )
    yield (
        f"outlier dimensions, {checkpoint['rule']} "
        f"(by chance: {chance(checkpoint['expected_by_chance'])})"
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
        return figure(checkpoint["perplexity"])
    loss, chance = checkpoint["nats_per_token"], checkpoint["chance_nats_per_token"]
    return f"{figure(loss)} nats per token (by chance: {figure(chance)})"


def comparison(checkpoint: Mapping[str, Any]) -> Iterable[str]:
    """Which rules found which dimensions, if several were asked for."""
    names = [rule["rule"] for rule in checkpoint.get("rules", ())]
    if len(names) < 2:
        return
    agreement = checkpoint.get("agreement", ())
    rows = [["rules agree on", *names]]
    for entry in agreement[:DIMENSIONS]:
        marks = ["x" if name in entry["rules"] else "." for name in names]
        rows.append([f"dimension {entry['dim']}", *marks])
    rows.append(["dimensions", *(str(len(rule["dims"])) for rule in checkpoint["rules"])])
    chances = (rule["expected_by_chance"] for rule in checkpoint["rules"])
    rows.append(["by chance", *("-" if c is None else chance(c) for c in chances)])
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        cells = [text.ljust(width) for text, width in zip(row, widths, strict=True)]
        yield "  ".join(cells).rstrip()
    if len(agreement) > DIMENSIONS:
        yield f"and {len(agreement) - DIMENSIONS} more dimensions, all in the JSON report"
    yield f"What is ablated are the dimensions of {names[0]}, the rule named first."


def _outlier(outlier: Mapping[str, Any], n_layers: int) -> str:
    found = []
    if outlier["z_scale"] is not None:
        found.append(f"scale up to {_extreme(outlier['z_scale'])} std")
    if outlier["z_bias"] is not None:
        found.append(f"bias {_extreme(outlier['z_bias'])} std")
    for name, values in outlier["statistics"].items():
        found.append(f"{name} up to {figure(max(map(float, values), key=abs))}")
    return (
        f"dimension {outlier['dim']} in {len(outlier['layers'])} of {n_layers} layers "
        f"({ranges(outlier['layers'])}): {', '.join(found)}"
    )


def _extreme(z: Sequence[float]) -> str:
    return f"{max(z, key=abs):+.1f}"


def notes(checks: Sequence[Mapping[str, Any]], n_blocks: int) -> Iterable[str]:
    """What there is to say after the table."""
    yield from _passes(checks, n_blocks)
    yield from _task_notes(checks)
    for check in checks:
        details = check["details"]
        if details.get("worst_draws"):
            worst, tokens = details["worst_draws"][0], check["tokens"] // details["draws"]
            yield (
                f"random control: {details['draws']} draws of about {tokens} tokens each, mean "
                f"{figure(details['mean_ratio'])}, highest {figure(worst['ratio'])} "
                f"({named(worst['dims'])}; a single draw is noisy)"
            )
        if "int8_ratio" in details:
            yield described_int8(details)
        if profile := details.get("layer_profile"):
            yield described([float(layer["ratio"]) for layer in profile])
    yield from _expectations(checks)
    yield from _precision_notes(checks)
    yield from _blind_shares(checks)


def _blind_shares(checks: Sequence[Mapping[str, Any]]) -> Iterable[str]:
    """What a comparison that ended early could have missed."""
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
        total = max((total_of(check, n_blocks) for check in some), default=0)
        if most > total > 0:
            every = f"task's {total} examples" if of_task else f"corpus of {total} text blocks"
            yield f"* in up to {math.ceil(most / total)} passes over the {every}"


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
                f"{figure(details['ablated_score'])}, intact {figure(details['intact_score'])} "
                f"on the same {details['examples']} examples"
            )


def _expectations(checks: Sequence[Mapping[str, Any]]) -> Iterable[str]:
    """Failures that the policy expects, once per kind of check."""
    marks = {
        check["check"]: check["expected_failure"]
        for check in checks
        if check.get("expected_failure") is not None
    }
    for test, mark in marks.items():
        state = "was expected" if mark["expired"] else "is expected"
        yield f"{check_name(test)} {state} to fail until {mark['expires']}: {mark['reason']}"


def _precision_notes(checks: Sequence[Mapping[str, Any]]) -> Iterable[str]:
    """Which checks used reduced precision, which could not, and what the discrepancy was."""
    for check in checks:
        details = check["details"]
        if "reduced_precision" not in details:
            continue
        costs = [float(each["slack_nats"]) for each in details["reduced_precision"]]
        near = details["dtype"] == "float32"
        yield (
            f"{check_name(check['check'])}, {in_short(check['dims'])}: "
            f"reduced precision moves ΔNLL by up to {max(costs):.2g} nats per text block, "
            + ("too much so near the threshold: float32" if near else f"used: {details['dtype']}")
        )


def by_layer(outliers: Sequence[Mapping[str, Any]]) -> Iterable[str]:
    """How far out each dimension lies in every layer in which it was found."""
    for outlier in outliers:
        for name, key in (("scale", "z_scale"), ("bias", "z_bias")):
            if outlier[key] is not None:
                pairs = zip(outlier["layers"], map(float, outlier[key]), strict=True)
                each = ", ".join(f"{layer}: {z:+.1f}" for layer, z in pairs)
                yield f"  dimension {outlier['dim']}, {name} in std by layer: {each}"


def profile_rows(checks: Sequence[Mapping[str, Any]]) -> Iterable[str]:
    """A line per layer of every profile that was measured."""
    for check in checks:
        for entry in check["details"].get("layer_profile") or ():
            interval = entry.get("interval")
            ends = "" if interval is None else f" ({' to '.join(map(bound, interval))})"
            yield f"  layer {entry['layer']}: x{figure(entry['ratio'])}{ends}"
