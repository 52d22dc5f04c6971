"""What a report says of a run and of a checkpoint, in sentences."""

from collections import Counter
from collections.abc import Iterator, Sequence

from robustness.report.html.axes import number
from robustness.report.html.figures import degradations, row_name
from robustness.report.html.heat_map import columns, kept, parameters
from robustness.report.html.parts import interval
from robustness.report.saved import CheckpointResult, CheckResult, RunResult

LISTED = 16
"""Dimensions named at most."""


def outcome(checkpoint: CheckpointResult) -> str:
    """``pass``, ``fail``, or ``none`` where no check was decided."""
    if not checkpoint.checks:
        return "none"
    return "pass" if all(check.accepted for check in checkpoint.checks) else "fail"


def verdict(checkpoint: CheckpointResult) -> str:
    """The verdict on a checkpoint in one sentence."""
    if not checkpoint.checks:
        return "No check of this checkpoint was decided in this run."
    return f"{_counted(checkpoint.checks)}: {found(checkpoint)}."


def _counted(checks: Sequence[CheckResult]) -> str:
    refused = [check for check in checks if not check.accepted]
    n = len(checks)
    if not refused:
        expected = sum(check.verdict == "fail" for check in checks)
        marked = f" ({expected} fail as expected)" if expected else ""
        return f"Passes its {n} check{'s' * (n > 1)}{marked}"
    kinds = Counter(check.verdict for check in refused)
    how = {"fail": "failed", "error": "gave an error", "inconclusive": "came to no conclusion"}
    parts = ", ".join(f"{times} {how.get(kind, kind)}" for kind, times in kinds.items())
    return f"Does not pass, {parts} of {n} checks"


def found(checkpoint: CheckpointResult) -> str:
    """What its outlier dimensions do, and what random ones do."""
    dims = checkpoint.dims
    if not dims:
        return "it has no outlier dimensions"
    plural = len(dims) > 1
    joint = _first(checkpoint, "test_joint_ablation_degrades")
    random = _first(checkpoint, "test_random_ablation_is_harmless")
    count = len(dims) if plural else "one"
    comma = "" if joint is None else ","
    parts = [f"its {count} outlier dimension{'s' * plural} ({listed(dims)}){comma}"]
    if joint is not None:
        parts.append(
            f"switched off, multipl{'y' if plural else 'ies'} "
            f"{checkpoint.quantity} by {number(joint.ratio)}"
        )
    if random is not None:
        lead = "as many random ones" if plural else "a random one"
        parts.append(f"{'; ' if joint else ''}{lead}, by {number(random.ratio)}")
    drop = _drop(checkpoint)
    if drop and (joint or random):
        parts.append(f"; without {'them' if plural else 'it'}, {drop}")
    elif drop:
        parts[0] += f"; without {'them' if plural else 'it'}, {drop}"
    return " ".join(parts).replace(" ; ", "; ")


def _drop(checkpoint: CheckpointResult) -> str | None:
    """How far the task's score falls without all outlier dimensions."""
    task = checkpoint.task
    found = [
        check
        for check in checkpoint.of("test_task_score_drops")
        if check.ratio is not None and check.dims == checkpoint.dims
    ]
    if not found or task is None:
        return None
    return f"the {task.metric} on {task.name} falls by {number(found[0].ratio)}"


def _first(checkpoint: CheckpointResult, test: str) -> CheckResult | None:
    return next((check for check in checkpoint.of(test) if check.ratio is not None), None)


def listed(dims: Sequence[int]) -> str:
    """A few dimensions."""
    shown = ", ".join(map(str, dims[:LISTED])) or "none"
    return f"{shown} and {len(dims) - LISTED} more" if len(dims) > LISTED else shown


def ranges(numbers: Sequence[int]) -> str:
    """``0–3, 5``."""
    parts: list[list[int]] = []
    for n in numbers:
        if parts and n == parts[-1][-1] + 1:
            parts[-1][1:] = [n]
        else:
            parts.append([n])
    return ", ".join("–".join(map(str, part)) for part in parts)


def run_verdict(run: RunResult) -> str:
    """The verdict on the whole run in one sentence."""
    n = len(run.checkpoints)
    subject = "The checkpoint" if n == 1 else f"All {n} checkpoints"
    if run.passed:
        return f"{subject} passed."
    if run.partial:
        return "A partial run: some of the planned checks were left out, so it is no verdict."
    if run.shard is not None:
        return (
            f"Shard {run.shard.get('index')} of {run.shard.get('count')}: "
            "“robustness merge” gives the verdict."
        )
    bad = sum(outcome(checkpoint) != "pass" for checkpoint in run.checkpoints)
    if not bad:
        return "The run did not pass, although every check of a checkpoint did."
    if bad == n:
        return "The checkpoint did not pass." if n == 1 else f"None of the {n} checkpoints passed."
    return f"{bad} of {n} checkpoints did not pass."


def described_heat_map(checkpoint: CheckpointResult) -> str:
    """For those who do not see it."""
    names = " and ".join(name for name, *_ in parameters(checkpoint))
    return (
        f"Heat map of {names} z-scores: {checkpoint.layers} layers by {checkpoint.hidden_size} "
        f"dimensions. Outlier dimensions: {listed(checkpoint.dims)}. The table below has their "
        "numbers."
    )


def thinned(checkpoint: CheckpointResult, n_checkpoints: int) -> str:
    """How much of the heat map had to be left out, if any."""
    width = columns(checkpoint.hidden_size, checkpoint.layers, n_checkpoints)[0].width
    n_kept = len(kept(checkpoint))
    gaps = (
        ""
        if n_kept == checkpoint.hidden_size
        else f"The result holds the {n_kept:,} most extreme of {checkpoint.hidden_size:,} "
        "dimensions; where there is no colour, others are. "
    )
    if width == 1:
        return gaps.strip()
    return (
        f"{gaps}Each column stands for {width} neighbouring dimensions and shows, per layer, the "
        "one farthest from the mean."
    )


def described_degradation(checkpoint: CheckpointResult) -> str:
    """For those who do not see it."""
    rows = [
        f"{row_name(check)}: {number(check.ratio)} times{interval(check.interval, check.exact)}, "
        f"{check.verdict}"
        for check in degradations(checkpoint)
    ]
    return f"Degradations on a logarithmic axis. {'; '.join(rows)}."


def described_course(check: CheckResult) -> str:
    """For those who do not see it."""
    looks = check.course or ()
    first, last = looks[0], looks[-1]
    return (
        f"After {first.text_blocks} {check.unit}: {number(first.ratio)}{interval(first.interval)}; "
        f"after {last.text_blocks}: {number(last.ratio)}{interval(last.interval)}; "
        f"needed {'at least' if check.passes == 'above' else 'below'} {number(check.threshold)}."
    )


def described_profile(check: CheckResult) -> str:
    """For those who do not see it."""
    layers = "; ".join(f"layer {k.layer}: {number(k.ratio)}" for k in check.details.layer_profile)
    return f"Degradation by ablating in one layer only. {layers}."


def subject(check: CheckResult) -> str:
    """What a check is about: its name, and dimensions where that tells checks apart."""
    name = {
        "test_ablation_degrades": "ablation",
        "test_joint_ablation_degrades": "joint ablation",
        "test_random_ablation_is_harmless": "random control",
        "test_outliers_matter_more_than_chance": "effect over chance",
        "test_task_score_drops": "task score",
        "test_random_ablation_keeps_task_score": "task score, random control",
        "test_outliers_matter_more_for_task": "task score, effect over chance",
    }.get(check.check, check.name)
    if check.check in ("test_ablation_degrades", "test_task_score_drops"):
        return f"{name}, dimension {listed(check.dims)}"
    return name


def _measured_on(checkpoint: CheckpointResult) -> Iterator[tuple[str, str]]:
    if checkpoint.has_perplexity:
        yield (
            "corpus",
            f"{checkpoint.corpus}; {checkpoint.corpus_text_blocks} text blocks of at most "
            f"{checkpoint.block_size} tokens",
        )
    if (task := checkpoint.task) is not None:
        yield "task", f"{task.reference}; {task.examples} examples of {task.kind}, {task.metric}"


def provenance(checkpoint: CheckpointResult) -> list[tuple[str, str]]:
    """What was measured, and how: terms and their explanations."""
    stack = "" if checkpoint.stack == "only" else f" of the {checkpoint.stack}"
    layers = checkpoint.ablated_layers
    where = "all layers" if layers in (None, "all") else f"layers {layers}"
    options = [
        f"{name} {value}"
        for name, value in (
            ("masking", checkpoint.masking),
            ("beginning of sequence", checkpoint.bos),
            ("context", checkpoint.context),
            ("generator", checkpoint.generator),
        )
        if value not in (None, "all", "auto", 0)
    ]
    exhaustive = ", exhaustive" if checkpoint.exhaustive else ""
    return [
        ("reference", checkpoint.reference),
        ("revision", checkpoint.revision),
        (
            "architecture",
            f"{checkpoint.architecture}; {checkpoint.layers} layers × {checkpoint.hidden_size}"
            f"{stack}; {checkpoint.parameters:,} parameters; vocabulary {checkpoint.vocabulary:,}",
        ),
        *_measured_on(checkpoint),
        ("scoring", "; ".join([checkpoint.scoring, *options])),
        ("precision", f"{checkpoint.dtype} on {checkpoint.device}"),
        ("ablation", f"{checkpoint.mode} at {checkpoint.site} in {where}"),
        ("rule", f"{checkpoint.rule} (by chance: {number(checkpoint.expected_by_chance)})"),
        ("expectation", f"{checkpoint.expectation}{exhaustive}"),
        ("seed", str(checkpoint.seed)),
        *(("note", note) for note in checkpoint.notes),
    ]
