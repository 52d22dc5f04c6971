"""A model card's account of a run: entries of its ``model-index``, and a section of Markdown."""

import re
import shlex
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from robustness.errors import ReportError
from robustness.report.markdown.card_file import TASK_NAME, new_card
from robustness.report.markdown.text import environment
from robustness.report.parts import OutlierDimension
from robustness.report.results import CheckpointResult, CheckResult, Report
from robustness.report.words import DIMENSIONS, figure, named
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
    vetted = [point for point in report.vetted if label in (None, point.label)]
    if len(vetted) != 1:
        labels = ", ".join(point.label for point in report.vetted) or "none"
        raise ReportError(
            f"a card is about one checkpoint, and this report holds {labels}; name one of them "
            "with --checkpoint"
        )
    return vetted[0]


def has_passed(report: Report, checkpoint: CheckpointResult) -> bool:
    """Tell whether this run releases a checkpoint; others of the run may have failed."""
    if report.passed:
        return True
    others = (point for point in report.checkpoints if point.label != checkpoint.label)
    explained = any(point.refused for point in others)
    return not checkpoint.refused and explained and not report.problems


def eval_results(report: Report, checkpoint: CheckpointResult) -> "list[EvalResult]":
    """Return what was measured in the classes of ``huggingface_hub``."""
    entry = partial(_entry, checkpoint)
    results = []
    intact, task, made_by = checkpoint.intact, checkpoint.task, {"robustness": report.robustness}
    if intact is not None and intact.perplexity is not None:
        seen = {"text_blocks": intact.text_blocks, "tokens": intact.tokens}
        results.append(entry("perplexity", "Perplexity", intact.perplexity, seen | made_by))
    if task is not None and task.score is not None:
        kind, seen = METRICS.get(task.metric, task.metric), {"examples": task.score_examples}
        name = plain(task.metric)
        results.append(entry(kind, name, task.score, seen | made_by, of_task=True))
    dims, rule = list(checkpoint.dims), checkpoint.rule.partition(":")[0]
    found = ("outlier_dimensions", "Outlier dimensions", len(dims), {"dims": dims, "rule": rule})
    results.append(entry(*found, of_task=not checkpoint.has_perplexity))
    for check in checkpoint.checks:
        if check.measured is not None:
            told = check.model_dump(mode="json", exclude={"details", "history", "examples"})
            args = {key: told[key] for key in ("dims", "interval", "threshold", "passes")}
            args |= {check.unit.replace(" ", "_"): check.seen, "verdict": check.outcome}
            measured = (check.check, _named(check), told["measured"], args)
            results.append(entry(*measured, of_task=check.unit == "examples"))
    return results


def _entry(
    checkpoint: CheckpointResult,
    kind: str,
    name: str,
    value: Any,
    args: Mapping[str, Any],
    *,
    of_task: bool = False,
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
        metric_args=dict(args),
    )


def section(report: Report, checkpoint: CheckpointResult, *, repo_id: str | None) -> str:
    """Say in Markdown what was vetted, what it came to, and how to repeat it."""
    names = [name for name in ("torch", "transformers") if name in report.versions]
    template = environment(named=_named, effect=partial(_effect, checkpoint))
    return template.get_template("card.md.j2").render(
        report=report,
        checkpoint=checkpoint,
        task=checkpoint.task,
        passed=has_passed(report, checkpoint),
        command=_command(checkpoint, repo_id),
        circumstances=_circumstances(report, checkpoint),
        versions=", ".join(f"{name} {report.versions[name]}" for name in names),
    )


def _effect(checkpoint: CheckpointResult, outlier: OutlierDimension) -> str:
    """Return what ablating a dimension alone does, where that was measured."""
    source: Source = "text" if checkpoint.has_perplexity else "task"
    alone = [
        check.measured
        for check in checkpoint.checks
        if check.is_of_one_dimension(source) and check.dims == (outlier.dim,)
    ]
    return "" if not alone or alone[0] is None else figure(alone[0])


def _command(checkpoint: CheckpointResult, repo_id: str | None) -> str:
    arguments = [f"--model={repo_id or checkpoint.reference}"]
    for name, default in SETTINGS.items():
        if (value := getattr(checkpoint, name)) != default:
            arguments.append(f"--robustness-{name.replace('_', '-')}={value}")
    if checkpoint.exhaustive:
        arguments.append("--robustness-exhaustive")
    if (task := checkpoint.task) is not None:
        arguments.append(f"--robustness-task={task.reference}")
    return shlex.join(["pytest", *arguments])


def _circumstances(report: Report, checkpoint: CheckpointResult) -> str:
    """Return what a command needs beside its options."""
    corpus = checkpoint.corpus
    unnamed = corpus.startswith("builtin") or not checkpoint.has_perplexity
    on = "" if unnamed else f", with --robustness-corpus set to {corpus}"
    policy = "" if report.policy is None else f", and the policy of that run ({report.policy})"
    return on + policy


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
