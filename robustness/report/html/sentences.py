"""What a report says of a run and of a checkpoint, in sentences."""

from collections import Counter
from collections.abc import Iterator

from robustness.report.html.figures import degradations
from robustness.report.html.heat_map import columns, kept, parameters
from robustness.report.html.parts import interval
from robustness.report.results import CheckpointResult, CheckResult, Report
from robustness.report.words import listed, number


def outcome(checkpoint: CheckpointResult) -> str:
    """Return ``pass``, ``fail``, or ``none`` if no check was decided."""
    if not checkpoint.checks:
        return "none"
    return "fail" if checkpoint.refused else "pass"


def verdict(checkpoint: CheckpointResult) -> str:
    """Return the verdict on a checkpoint in one sentence."""
    if not checkpoint.checks:
        return "No check of this checkpoint was decided in this run."
    return f"{_counted(checkpoint)}: {found(checkpoint)}."


def _counted(checkpoint: CheckpointResult) -> str:
    checks, refused = checkpoint.checks, checkpoint.refused
    n = len(checks)
    if not refused:
        expected = sum(check.outcome == "fail" for check in checks)
        marked = f" ({expected} fail as expected)" if expected else ""
        return f"Passes its {n} check{'s' * (n > 1)}{marked}"
    kinds = Counter(check.outcome for check in refused)
    how = {"fail": "failed", "error": "gave an error", "inconclusive": "came to no conclusion"}
    parts = ", ".join(f"{times} {how.get(kind, kind)}" for kind, times in kinds.items())
    return f"Does not pass, {parts} of {n} checks"


def found(checkpoint: CheckpointResult) -> str:
    """Say what its outlier dimensions do, and what random ones do."""
    dims = checkpoint.dims
    if not dims:
        return "it has no outlier dimensions"
    plural = len(dims) > 1
    joint = next(iter(checkpoint.of("joint")), None)
    random = next(iter(checkpoint.of("control")), None)
    count = len(dims) if plural else "one"
    comma = "" if joint is None else ","
    parts = [f"its {count} outlier dimension{'s' * plural} ({listed(dims)}){comma}"]
    if joint is not None:
        parts.append(
            f"switched off, multipl{'y' if plural else 'ies'} "
            f"{checkpoint.quantity} by {number(joint.measured)}"
        )
    if random is not None:
        lead = "as many random ones" if plural else "a random one"
        parts.append(f"{'' if joint is None else '; '}{lead}, by {number(random.measured)}")
    drop = _drop(checkpoint)
    if drop is not None and (joint is not None or random is not None):
        parts.append(f"; without {'them' if plural else 'it'}, {drop}")
    elif drop is not None:
        parts[0] += f"; without {'them' if plural else 'it'}, {drop}"
    return " ".join(parts).replace(" ; ", "; ")


def _drop(checkpoint: CheckpointResult) -> str | None:
    """Say how far the task's score falls without all outlier dimensions."""
    drops = [
        check.measured
        for check in checkpoint.checks
        if check.is_of_one_dimension("task") and check.dims == checkpoint.dims
    ]
    measured = [drop for drop in drops if drop is not None]
    if not measured or checkpoint.task is None:
        return None
    task = checkpoint.task
    return f"the {task.metric} on {task.name} falls by {number(measured[0])}"


def run_verdict(report: Report) -> str:
    """Return the verdict on the whole run in one sentence."""
    n = len(report.checkpoints)
    subject = "The checkpoint" if n == 1 else f"All {n} checkpoints"
    if report.passed:
        return f"{subject} passed."
    if report.partial:
        return "A partial run: some of the planned checks were left out, so it is no verdict."
    if report.shard is not None:
        return (
            f"Shard {report.shard.index} of {report.shard.count}: "
            "“robustness merge” gives the verdict."
        )
    bad = sum(outcome(checkpoint) != "pass" for checkpoint in report.checkpoints)
    if not bad:
        return "The run did not pass, although every check of a checkpoint did."
    if bad == n:
        return "The checkpoint did not pass." if n == 1 else f"None of the {n} checkpoints passed."
    return f"{bad} of {n} checkpoints did not pass."


def described_heat_map(checkpoint: CheckpointResult) -> str:
    """Describe the heat map for those who do not see it."""
    names = " and ".join(name for name, *_ in parameters(checkpoint))
    return (
        f"Heat map of {names} z-scores: {checkpoint.layers} layers by {checkpoint.hidden_size} "
        f"dimensions. Outlier dimensions: {listed(checkpoint.dims)}. The table below has their "
        "numbers."
    )


def thinned(checkpoint: CheckpointResult, n_checkpoints: int) -> str:
    """Say how much of the heat map had to be left out, if any."""
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
    """Describe the degradations for those who do not see them."""
    rows = [
        f"{check.row}: {number(check.measured)} times{interval(check.interval, check.exact)}, "
        f"{check.outcome}"
        for check in degradations(checkpoint)
    ]
    return f"Degradations on a logarithmic axis. {'; '.join(rows)}."


def described_history(check: CheckResult) -> str:
    """Describe how a decision narrowed for those who do not see it."""
    first, last = check.history[0], check.history[-1]
    return (
        f"After {first.seen} {check.unit}: {number(first.measured)}{interval(first.interval)}; "
        f"after {last.seen}: {number(last.measured)}{interval(last.interval)}; "
        f"needed {'at least' if check.passes == 'above' else 'below'} {number(check.threshold)}."
    )


def described_profile(check: CheckResult) -> str:
    """Describe the profile of layers for those who do not see it."""
    layers = "; ".join(f"layer {each.layer}: {number(each.ratio)}" for each in check.details.layers)
    return f"Degradation by ablating in one layer only. {layers}."


def subject(check: CheckResult) -> str:
    """Say what a check is about: its title, and dimensions where these tell checks apart."""
    return (
        f"{check.title}, dimension {listed(check.dims)}" if check.is_by_dimension else check.title
    )


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
    """Return what was measured and how, as terms and their explanations."""
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
