"""A model card's account of a run: entries of its ``model-index``, and a section of Markdown."""

import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from robustness.errors import ReportError
from robustness.report.facts import is_accepted
from robustness.report.markdown.text import code, escaped, table
from robustness.report.terminal.table import COLUMNS, row_of
from robustness.report.terminal.wording import DIMENSIONS, check_name, figure, ranges
from robustness.runtime.plain import plain

if TYPE_CHECKING:
    from huggingface_hub import EvalResult

Facts = Mapping[str, Any]

TASK_NAME = "Outlier dimensions (pytest-robustness)"
"""By which the entries that an earlier run has left in a card are known."""

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


def chosen(facts: Facts, label: str | None) -> Facts:
    """The checkpoint that a card is about.

    Args:
        facts: the JSON report of a run.
        label: of several.

    Raises:
        ReportError: the report is of a part of a run, or does not hold one such checkpoint.
    """
    if facts.get("shard") is not None:
        raise ReportError(
            "this is the report of a shard, which is no verdict; merge all of them first "
            "('robustness merge … --json=FILE')"
        )
    if facts["partial"]:
        raise ReportError(
            "this run left checks out (PARTIAL), so it is no verdict; run all of them"
        )
    vetted = [checkpoint for checkpoint in facts["checkpoints"] if checkpoint["checks"]]
    named = [one for one in vetted if label in (None, one["label"])]
    if len(named) != 1:
        labels = ", ".join(one["label"] for one in vetted) or "none"
        raise ReportError(
            f"a card is about one checkpoint, and this report holds {labels}; name one of them "
            "with --checkpoint"
        )
    found: Facts = named[0]
    return found


def has_passed(facts: Facts, checkpoint: Facts) -> bool:
    """Whether a checkpoint may be released by this run; others of the run may have failed."""
    if facts["passed"]:
        return True
    others = [one for one in facts["checkpoints"] if one["label"] != checkpoint["label"]]
    explained = any(not is_accepted(check) for one in others for check in one["checks"])
    accepted = all(map(is_accepted, checkpoint["checks"]))
    return accepted and explained and not facts["problems"]


def eval_results(facts: Facts, checkpoint: Facts) -> "list[EvalResult]":
    """What was measured, in the classes of ``huggingface_hub``."""
    from huggingface_hub import EvalResult

    task = checkpoint.get("task")

    def result(
        kind: str, name: str, value: Any, *, of_task: bool = False, **args: Any
    ) -> "EvalResult":
        asked, data = None, checkpoint["corpus"]
        if of_task and task is not None:
            asked, data = OF_TASKS.get(task["kind"], "other"), task["name"]
        return EvalResult(
            task_type=asked or TASKS.get(checkpoint["scoring"], "other"),
            task_name=TASK_NAME,
            dataset_type=_slug(data),
            dataset_name=plain(data),
            metric_type=kind,
            metric_name=name,
            metric_value=value,
            metric_args=args or None,
        )

    found = []
    if checkpoint["perplexity"] is not None:
        about = {
            "text_blocks": checkpoint["perplexity_text_blocks"],
            "tokens": checkpoint["perplexity_tokens"],
            "robustness": facts["robustness"],
        }
        found.append(result("perplexity", "Perplexity", checkpoint["perplexity"], **about))
    if task is not None and task["score"] is not None:
        kind = METRICS.get(task["metric"], task["metric"])
        about = {"examples": task["score_examples"], "robustness": facts["robustness"]}
        found.append(result(kind, plain(task["metric"]), task["score"], of_task=True, **about))
    dims = [outlier["dim"] for outlier in checkpoint["outliers"]]
    found.append(
        result(
            "outlier_dimensions",
            "Outlier dimensions",
            len(dims),
            of_task=checkpoint["scoring"] == "task",
            dims=dims,
            rule=_rule(checkpoint),
        )
    )
    for check in checkpoint["checks"]:
        if check["ratio"] is not None:
            args = {
                key: check[key]
                for key in ("dims", "interval", "threshold", "passes", "text_blocks", "verdict")
            }
            kind = check["check"].removeprefix("test_")
            of_task = "task" in check["details"]
            found.append(result(kind, _named(check), check["ratio"], of_task=of_task, **args))
    return found


def section(facts: Facts, checkpoint: Facts, *, repo_id: str | None) -> str:
    """Markdown: what was vetted, the verdict, dimensions and degradations, how to repeat it."""
    lines = ["## Outlier dimensions", "", *_verdict(facts, checkpoint), "", _vetted(checkpoint), ""]
    if checkpoint["outliers"]:
        measured = "drop of the score" if checkpoint["scoring"] == "task" else "ratio"
        effect = f"{measured} when ablated"
        columns = ("dimension", "layers", "scale, std", "bias, std", effect)
        rows = [_outlier(one, checkpoint) for one in checkpoint["outliers"][:DIMENSIONS]]
        lines += [*table(columns, "rlrrr", rows), ""]
        if more := len(checkpoint["outliers"]) - DIMENSIONS:
            lines += [f"and {more} more.", ""] if more > 0 else []
    kept = [column for column in COLUMNS if column != "blocks"]
    n_blocks = checkpoint["corpus_text_blocks"]
    cells = [
        dict(zip(COLUMNS, row_of(check, n_blocks), strict=True)) for check in checkpoint["checks"]
    ]
    rows = [[escaped(row[column]) for column in kept] for row in cells]
    lines += [*table(kept, "llrlrl", rows), "", *_repeat(facts, checkpoint, repo_id)]
    return "\n".join(lines)


def _verdict(facts: Facts, checkpoint: Facts) -> Iterator[str]:
    checks = checkpoint["checks"]
    accepted = sum(map(is_accepted, checks))
    outcome = "passed" if has_passed(facts, checkpoint) else "FAILED"
    yield (
        f"**Vetting {outcome}**: {accepted} of {len(checks)} checks accepted by pytest-robustness "
        f"{escaped(facts['robustness'])}, expectation {escaped(checkpoint['expectation'])}, confidence "
        f"{facts['confidence']:g}, {escaped(facts['started'].partition('T')[0])}."
    )
    not_applicable = sum(check["verdict"] == "not applicable" for check in checks)
    if not_applicable:
        yield f"{not_applicable} of them are not applicable."
    for check in checks:
        mark = check.get("expected_failure")
        if check["verdict"] == "fail" and mark is not None:
            yield (
                f"A failure of *{escaped(_named(check))}* was expected until "
                f"{escaped(mark['expires'])}: {escaped(mark['reason'])}."
            )
    for problem in facts["problems"]:
        yield f"{escaped(problem)}."


def _vetted(checkpoint: Facts) -> str:
    on, meanings = [], []
    if checkpoint["scoring"] != "task":
        figures = ""
        if checkpoint["perplexity"] is not None:
            figures = (
                f"; {escaped(checkpoint['quantity'])} {figure(checkpoint['perplexity'])} over "
                f"{checkpoint['perplexity_text_blocks']} text blocks"
            )
        on.append(f"{escaped(checkpoint['corpus'])}{figures}")
        meanings.append(
            "a ratio is perplexity with them switched off over perplexity with the model intact"
        )
    if (task := checkpoint.get("task")) is not None:
        score = "" if task["score"] is None else f" {figure(task['score'])}"
        on.append(
            f"the task {escaped(task['name'])}; {escaped(task['metric'])}{score} over "
            f"{task['score_examples']} of {task['examples']} examples"
        )
        meanings.append("of a task's checks, measured is how far its score drops without them")
    return (
        f"Vetted: {code(checkpoint['reference'])} at {code(checkpoint['revision'])}, "
        f"{escaped(checkpoint['architecture'])}, {checkpoint['layers']} layers x "
        f"{checkpoint['hidden_size']}, on {'; and on '.join(on)}. Rule: "
        f"{escaped(checkpoint['rule'])}. [Outlier dimensions](https://arxiv.org/abs/2105.06990) "
        "are features on which a model's predictions depend far more than on any others; "
        f"{'; '.join(meanings)}."
    )


def _outlier(outlier: Facts, checkpoint: Facts) -> list[str]:
    of_task = checkpoint["scoring"] == "task"
    test = "test_task_score_drops" if of_task else "test_ablation_degrades"
    alone = [
        check
        for check in checkpoint["checks"]
        if check["check"] == test and check["dims"] == [outlier["dim"]]
    ]
    ratio = alone[0]["ratio"] if alone else None
    return [
        str(outlier["dim"]),
        f"{len(outlier['layers'])} of {checkpoint['layers']} ({ranges(outlier['layers'])})",
        *(_furthest(outlier[name]) for name in ("z_scale", "z_bias")),
        "" if ratio is None else figure(ratio),
    ]


def _furthest(z: Sequence[float] | None) -> str:
    return "" if z is None else f"{max(map(float, z), key=abs):+.1f}"


def _repeat(facts: Facts, checkpoint: Facts, repo_id: str | None) -> Iterator[str]:
    arguments = [f"--model={repo_id or checkpoint['reference']}"]
    for name, default in SETTINGS.items():
        if checkpoint[name] != default:
            arguments.append(f"--robustness-{name.replace('_', '-')}={checkpoint[name]}")
    if checkpoint["exhaustive"]:
        arguments.append("--robustness-exhaustive")
    if (task := checkpoint.get("task")) is not None:
        arguments.append(f"--robustness-task={task['reference']}")
    versions = ", ".join(
        f"{name} {facts['versions'][name]}"
        for name in ("torch", "transformers")
        if name in facts["versions"]
    )
    corpus = checkpoint["corpus"]
    unnamed = corpus.startswith("builtin") or checkpoint["scoring"] == "task"
    on = "" if unnamed else f", with --robustness-corpus set to {corpus}"
    policy = "" if facts["policy"] is None else f", and the policy of that run ({facts['policy']})"
    yield f"To repeat it: {code(shlex.join(['pytest', *arguments]))}{escaped(on + policy)}"
    yield f"({escaped(versions)})."


def _named(check: Facts) -> str:
    name = check_name(check["check"])
    dims = check["dims"]
    if not dims:
        return name
    if "draws" in check["details"] or "task_draws" in check["details"]:
        return f"{name}, {len(dims)} random"
    shown = ", ".join(map(str, dims[:DIMENSIONS]))
    return f"{name}, dimension{'s' * (len(dims) > 1)} {shown}"


def _rule(checkpoint: Facts) -> str:
    return str(checkpoint["rule"]).partition(":")[0]


def _slug(corpus: str) -> str:
    """A corpus' id as the Hub writes those of data sets: the name alone."""
    name = re.split(r"[:\s]", corpus)[0]
    return re.sub(r"[^A-Za-z0-9._/-]+", "-", name).strip("-/.") or "text"
