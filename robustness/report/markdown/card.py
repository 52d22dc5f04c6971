"""A model card's account of a run: entries of its ``model-index``, and a section of Markdown."""

import re
import shlex
from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

from robustness.errors import ReportError
from robustness.report.cells import COLUMNS, row_of
from robustness.report.markdown.card_file import TASK_NAME, new_card
from robustness.report.markdown.text import code, escaped, table
from robustness.report.parts import OutlierDimension
from robustness.report.results import CheckpointResult, CheckResult, Report
from robustness.report.words import DIMENSIONS, figure, furthest, named, ranges
from robustness.runtime.plain import plain

if TYPE_CHECKING:
    from huggingface_hub import EvalResult

    from robustness.checks.check import Source


TASKS = {
    "masked": "fill-mask",
    "causal": "text-generation",
    "permutation": "text-generation",
    "seq2seq": "text2text-generation",
}
"""The Hub's names of tasks, by scoring."""

OF_TASKS = {
    "classification": "text-classification",
    "regression": "text-classification",
    "similarity": "sentence-similarity",
}
"""The same by kind of a downstream task; GLUE's regression is listed there as a classification."""

METRICS = {"matthews": "matthews_correlation", "pearson": "pearsonr", "spearman": "spearmanr"}
"""The Hub's names of metrics, where they are others."""

SETTINGS = {"expectation": "paper", "seed": 0, "block_size": 128, "site": "output", "mode": "zero"}
"""Settings with an option of their own that a command has to name where they are not these."""


def render(report: Report) -> str:
    """Return a whole card of the only checkpoint of a run."""
    checkpoint = chosen(report, None)
    text = section(report, checkpoint, repo_id=None)
    return new_card(checkpoint.label, text, eval_results(report, checkpoint))


def chosen(report: Report, label: str | None) -> CheckpointResult:
    """Return the checkpoint that a card is about, of several the one with this label.

    Raises:
        ReportError: the report is of a part of a run, or does not hold one such checkpoint.
    """
    if report.shard is not None:
        raise ReportError(
            "this is the report of a shard, which is no verdict; merge all of them first "
            "('robustness merge … --json=FILE')"
        )
    if report.partial:
        raise ReportError(
            "this run left checks out (PARTIAL), so it is no verdict; run all of them"
        )
    vetted = [one for one in report.vetted if label in (None, one.label)]
    if len(vetted) != 1:
        labels = ", ".join(one.label for one in report.vetted) or "none"
        raise ReportError(
            f"a card is about one checkpoint, and this report holds {labels}; name one of them "
            "with --checkpoint"
        )
    return vetted[0]


def has_passed(report: Report, checkpoint: CheckpointResult) -> bool:
    """Tell whether this run releases a checkpoint; others of the run may have failed."""
    if report.passed:
        return True
    explained = any(one.refused for one in report.checkpoints if one.label != checkpoint.label)
    return not checkpoint.refused and explained and not report.problems


def eval_results(report: Report, checkpoint: CheckpointResult) -> "list[EvalResult]":
    """Return what was measured in the classes of ``huggingface_hub``."""
    entry = partial(_entry, checkpoint)
    results = []
    intact, task = checkpoint.intact, checkpoint.task
    if intact is not None and intact.perplexity is not None:
        about: dict[str, Any] = {
            "text_blocks": intact.text_blocks,
            "tokens": intact.tokens,
            "robustness": report.robustness,
        }
        results.append(entry("perplexity", "Perplexity", intact.perplexity, **about))
    if task is not None and task.score is not None:
        kind = METRICS.get(task.metric, task.metric)
        about = {"examples": task.score_examples, "robustness": report.robustness}
        results.append(entry(kind, plain(task.metric), task.score, of_task=True, **about))
    results.append(
        entry(
            "outlier_dimensions",
            "Outlier dimensions",
            len(checkpoint.dims),
            of_task=not checkpoint.has_perplexity,
            dims=list(checkpoint.dims),
            rule=checkpoint.rule.partition(":")[0],
        )
    )
    results += _measured(checkpoint, entry)
    return results


def _measured(
    checkpoint: CheckpointResult, entry: "Callable[..., EvalResult]"
) -> "Iterator[EvalResult]":
    for check in checkpoint.checks:
        if check.measured is None:
            continue
        told = check.model_dump(mode="json", exclude={"details", "history", "examples"})
        args = {key: told[key] for key in ("dims", "interval", "threshold", "passes")}
        args |= {check.unit.replace(" ", "_"): check.seen, "verdict": check.outcome}
        of_task = check.unit == "examples"
        yield entry(check.check, _named(check), told["measured"], of_task=of_task, **args)


def _entry(
    checkpoint: CheckpointResult,
    kind: str,
    name: str,
    value: Any,
    *,
    of_task: bool = False,
    **args: Any,
) -> "EvalResult":
    from huggingface_hub import EvalResult

    task_type, data = TASKS.get(checkpoint.scoring, "other"), checkpoint.corpus
    if of_task and (task := checkpoint.task) is not None:
        task_type, data = OF_TASKS.get(task.kind, "other"), task.name
    return EvalResult(
        task_type=task_type,
        task_name=TASK_NAME,
        dataset_type=_slug(data),
        dataset_name=plain(data),
        metric_type=kind,
        metric_name=name,
        metric_value=value,
        metric_args=args or None,
    )


def section(report: Report, checkpoint: CheckpointResult, *, repo_id: str | None) -> str:
    """Say in Markdown what was vetted, what it came to, and how to repeat it."""
    lines = [
        "## Outlier dimensions",
        "",
        *_verdict(report, checkpoint),
        "",
        _vetted(checkpoint),
        "",
    ]
    if checkpoint.outliers:
        measured = "ratio" if checkpoint.has_perplexity else "drop of the score"
        effect = f"{measured} when ablated"
        columns = ("dimension", "layers", "scale, std", "bias, std", effect)
        rows = [_outlier(one, checkpoint) for one in checkpoint.outliers[:DIMENSIONS]]
        lines += [*table(columns, "rlrrr", rows), ""]
        if more := len(checkpoint.outliers) - DIMENSIONS:
            lines += [f"and {more} more.", ""] if more > 0 else []
    kept = [column for column in COLUMNS if column != "blocks"]
    n_blocks = checkpoint.corpus_text_blocks
    cells = [
        dict(zip(COLUMNS, row_of(check, n_blocks), strict=True)) for check in checkpoint.checks
    ]
    rows = [[escaped(row[column]) for column in kept] for row in cells]
    lines += [*table(kept, "llrlrl", rows), "", *_repeat(report, checkpoint, repo_id)]
    return "\n".join(lines)


def _verdict(report: Report, checkpoint: CheckpointResult) -> Iterator[str]:
    checks = checkpoint.checks
    accepted = len(checks) - len(checkpoint.refused)
    outcome = "passed" if has_passed(report, checkpoint) else "FAILED"
    yield (
        f"**Vetting {outcome}**: {accepted} of {len(checks)} checks accepted by pytest-robustness "
        f"{escaped(report.robustness)}, expectation {escaped(checkpoint.expectation)}, confidence "
        f"{report.confidence:g}, {escaped(report.started.partition('T')[0])}."
    )
    not_applicable = sum(check.outcome == "not applicable" for check in checks)
    if not_applicable:
        yield f"{not_applicable} of them are not applicable."
    for check in checks:
        mark = check.expected_failure
        if check.outcome == "fail" and mark is not None:
            yield (
                f"A failure of *{escaped(_named(check))}* was expected until "
                f"{escaped(mark.expires)}: {escaped(mark.reason)}."
            )
    for problem in report.problems:
        yield f"{escaped(problem)}."


def _vetted(checkpoint: CheckpointResult) -> str:
    on, meanings = [], []
    if checkpoint.has_perplexity:
        figures = ""
        if (intact := checkpoint.intact) is not None and intact.perplexity is not None:
            figures = (
                f"; {escaped(checkpoint.quantity)} {figure(intact.perplexity)} over "
                f"{intact.text_blocks} text blocks"
            )
        on.append(f"{escaped(checkpoint.corpus)}{figures}")
        meanings.append(
            "a ratio is perplexity with them switched off over perplexity with the model intact"
        )
    if (task := checkpoint.task) is not None:
        score = "" if task.score is None else f" {figure(task.score)}"
        on.append(
            f"the task {escaped(task.name)}; {escaped(task.metric)}{score} over "
            f"{task.score_examples} of {task.examples} examples"
        )
        meanings.append("of a task's checks, measured is how far its score drops without them")
    return (
        f"Vetted: {code(checkpoint.reference)} at {code(checkpoint.revision)}, "
        f"{escaped(checkpoint.architecture)}, {checkpoint.layers} layers x "
        f"{checkpoint.hidden_size}, on {'; and on '.join(on)}. Rule: "
        f"{escaped(checkpoint.rule)}. [Outlier dimensions](https://arxiv.org/abs/2105.06990) "
        "are features on which a model's predictions depend far more than on any others; "
        f"{'; '.join(meanings)}."
    )


def _outlier(outlier: OutlierDimension, checkpoint: CheckpointResult) -> list[str]:
    source: Source = "text" if checkpoint.has_perplexity else "task"
    alone = [
        check.measured
        for check in checkpoint.checks
        if check.is_of_one_dimension(source) and check.dims == (outlier.dim,)
    ]
    return [
        str(outlier.dim),
        f"{len(outlier.layers)} of {checkpoint.layers} ({ranges(outlier.layers)})",
        *("" if z is None else furthest(z) for z in (outlier.z_scale, outlier.z_bias)),
        "" if not alone or alone[0] is None else figure(alone[0]),
    ]


def _repeat(report: Report, checkpoint: CheckpointResult, repo_id: str | None) -> Iterator[str]:
    arguments = [f"--model={repo_id or checkpoint.reference}"]
    for name, default in SETTINGS.items():
        if (value := getattr(checkpoint, name)) != default:
            arguments.append(f"--robustness-{name.replace('_', '-')}={value}")
    if checkpoint.exhaustive:
        arguments.append("--robustness-exhaustive")
    if (task := checkpoint.task) is not None:
        arguments.append(f"--robustness-task={task.reference}")
    versions = ", ".join(
        f"{name} {report.versions[name]}"
        for name in ("torch", "transformers")
        if name in report.versions
    )
    corpus = checkpoint.corpus
    unnamed = corpus.startswith("builtin") or not checkpoint.has_perplexity
    on = "" if unnamed else f", with --robustness-corpus set to {corpus}"
    policy = "" if report.policy is None else f", and the policy of that run ({report.policy})"
    yield f"To repeat it: {code(shlex.join(['pytest', *arguments]))}{escaped(on + policy)}"
    yield f"({escaped(versions)})."


def _named(check: CheckResult) -> str:
    if not check.dims:
        return check.name
    if check.is_random:
        return f"{check.name}, {len(check.dims)} random"
    return f"{check.name}, {named(check.dims[:DIMENSIONS])}"


def _slug(corpus: str) -> str:
    """Return a corpus' id as the Hub writes those of data sets: the name alone."""
    name = re.split(r"[:\s]", corpus)[0]
    return re.sub(r"[^A-Za-z0-9._/-]+", "-", name).strip("-/.") or "text"
