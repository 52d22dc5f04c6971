"""The facts of a run as plain JSON types: what every report is a view of."""

import json
import math
import platform
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np

from robustness import __version__
from robustness.checks.checks import Check
from robustness.outliers.outliers import Detection
from robustness.run.plan import PlannedCheckpoint, RunPlan
from robustness.scoring.quantity import quantity
from robustness.statistics.verdict import Verdict

SCHEMA = 1
"""Of the JSON report; part of the public interface."""

PER_TEXT = ("word_perplexity", "byte_perplexity", "bits_per_byte", "words", "utf8_bytes")
"""Figures that do not depend on the tokenizer, of the text blocks that were measured."""

ACCEPTED = ("pass", "not applicable")
"""Verdicts that do not fail a run."""

PACKAGES = ("torch", "transformers", "tokenizers", "datasets", "numpy", "pytest", "pytest-xdist")


OF_THE_CHECKPOINT = ("label", "name", "examples")
"""What a decided check says that does not stand with it in the report."""


def check_facts(
    nodeid: str,
    label: str,
    check: Check,
    verdict: Verdict,
    *,
    examples: Sequence[Mapping[str, Any]] = (),
) -> dict[str, Any]:
    """One decided check; ``label`` and ``name`` say which one of the plan.

    What was measured on the way to show it (``robustness.scoring.examples``) travels with it.
    """
    found = {
        "id": nodeid,
        "label": label,
        "name": check.test_name(label),
        "check": check.test,
        "dims": list(check.dims),
        "ratio": verdict.ratio,
        "interval": verdict.interval,
        "threshold": verdict.threshold,
        "passes": verdict.passes,
        "text_blocks": verdict.text_blocks,
        "tokens": verdict.tokens,
        "exact": verdict.exact,
        "verdict": verdict.outcome,
        "expected_failure": check.expected_failure and check.expected_failure.to_dict(),
        "statement": verdict.statement,
        "reason": verdict.reason,
        "details": verdict.details,
        "course": list(verdict.course) or None,
        "examples": list(examples),
    }
    plain: dict[str, Any] = _plain(found)
    return plain


def is_accepted(record: Mapping[str, Any]) -> bool:
    """Whether a decided check lets a run pass: also one that fails as the policy expects."""
    expected = record.get("expected_failure")
    if record["verdict"] == "fail" and expected is not None:
        return not expected["expired"]
    return record["verdict"] in ACCEPTED


def _plain(value: Any) -> Any:
    """JSON types, whatever numpy has made of them; infinities as text."""
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return _number(value) if isinstance(value, float) else value


def _number(value: float) -> float | str:
    if math.isfinite(value):
        return value
    return str(value)  # "inf", "-inf" or "nan": JSON has no such numbers


def run_facts(
    plan: RunPlan,
    records: Mapping[str, Mapping[str, Any]],
    *,
    partial: bool,
    problems: Iterable[str],
    exit_status: int,
    started: datetime,
    duration_s: float,
    command: str | None = None,
) -> dict[str, Any]:
    """Everything a run has found out.

    Args:
        plan: what was planned.
        records: what :func:`check_facts` made, per test id.
        partial: whether planned checks were left out.
        problems: why the run is no verdict although no test failed.
        exit_status: of the session; tests that have nothing to do with vetting count, too.
        started: when the run started, by the clock on the wall.
        duration_s: how long it took, by a clock that nobody sets back.
        command: what the user typed, as a shell would take it again.
    """
    checkpoints = [_checkpoint_facts(planned, records) for planned in plan.checkpoints]
    failures = list(problems)
    return {
        "schema": SCHEMA,
        "robustness": __version__,
        "versions": _versions(),
        "command": command,
        "started": started.isoformat(timespec="seconds"),
        "duration_s": round(duration_s, 3),
        "confidence": plan.confidence,
        "comparisons": plan.comparisons,
        "alpha": plan.alpha,
        "policy": plan.policy_source,
        "baseline": plan.baseline_source,
        "partial": partial,
        "problems": failures,
        "exit_status": exit_status,
        "shard": plan.shard,
        "passed": plan.shard is None
        and exit_status == 0
        and not partial
        and not failures
        and any(checkpoint["checks"] for checkpoint in checkpoints),
        "checkpoints": checkpoints,
    }


def _checkpoint_facts(
    planned: PlannedCheckpoint, records: Mapping[str, Mapping[str, Any]]
) -> dict[str, Any]:
    by_name = {record["name"]: record for record in records.values()}
    names = [check.test_name(planned.label) for check in planned.checks]
    checks = [
        {key: value for key, value in by_name[name].items() if key not in OF_THE_CHECKPOINT}
        for name in names
        if name in by_name
    ]
    checkpoint, settings, model_profile = (
        planned.checkpoint,
        planned.settings,
        planned.model_profile,
    )
    widest: Mapping[str, Any] = max(
        (check["details"] for check in checks if "intact_perplexity" in check["details"]),
        key=lambda details: details["intact_text_blocks"],
        default={},
    )
    return {
        "label": planned.label,
        "reference": checkpoint["reference"],
        "revision": checkpoint["revision"],
        "architecture": checkpoint["architecture"],
        "stack": model_profile.stack,
        "site": settings.site,
        "mode": settings.mode,
        "ablated_layers": settings.layers,
        "layers": model_profile.layers,
        "hidden_size": model_profile.hidden_size,
        "parameters": checkpoint["n_parameters"],
        "vocabulary": checkpoint["vocab_size"],
        "scoring": checkpoint["scoring"],
        "dtype": planned.dtype,
        **_scoring_facts(planned),
        "device": settings.device,
        "expectation": settings.expectation,
        "seed": settings.seed,
        "block_size": planned.block_size,
        "exhaustive": settings.exhaustive,
        "corpus": planned.corpus,
        "corpus_text_blocks": planned.text_blocks,
        "notes": list(planned.notes),
        "quantity": quantity(checkpoint["scoring"]).name,
        "perplexity": widest.get("intact_perplexity"),
        "nats_per_token": widest.get("intact_nats_per_token"),
        "chance_nats_per_token": widest.get("chance_nats_per_token"),
        **{name: (widest.get("intact_text") or {}).get(name) for name in PER_TEXT},
        "perplexity_text_blocks": widest.get("intact_text_blocks", 0),
        "perplexity_tokens": widest.get("intact_tokens", 0),
        "rule": model_profile.detection.rule,
        "expected_by_chance": model_profile.detection.by_chance,
        "outliers": _outliers(model_profile.detection),
        "rules": [_rule_facts(detection) for detection in model_profile.detections],
        "agreement": _agreement(model_profile.detections),
        "sites": None if model_profile.values is None else _plain(model_profile.values.to_dict()),
        "baseline": None if planned.baseline is None else planned.baseline.summary(),
        "examples": _examples(by_name[name] for name in names if name in by_name),
        "task": _task_facts(planned, checks),
        "checks": checks,
    }


def _examples(records: Iterable[Mapping[str, Any]]) -> list[Any]:
    """What the check on the joint ablation has shown."""
    return next((list(found) for record in records if (found := record.get("examples"))), [])


def _task_facts(
    planned: PlannedCheckpoint, checks: Sequence[Mapping[str, Any]]
) -> dict[str, Any] | None:
    """The downstream task, and the intact model's score on the examples measured most widely."""
    task = planned.task
    if task is None:
        return None
    widest: Mapping[str, Any] = max(
        (check["details"] for check in checks if "intact_score" in check["details"]),
        key=lambda details: min(details["examples"], details["task_examples"]),
        default={},
    )
    return {
        "name": task.name,
        "reference": task.reference,
        "kind": task.kind,
        "metric": task.metric,
        "architecture": task.checkpoint["architecture"],
        "examples": task.examples,
        "score": widest.get("intact_score"),
        "score_examples": min(widest.get("examples", 0), task.examples),
    }


def _scoring_facts(planned: PlannedCheckpoint) -> dict[str, Any]:
    """The settings that the scoring depends on; None where it does not."""
    scoring, options = planned.checkpoint["scoring"], planned.settings.scoring_options
    return {
        "masking": options.masking if scoring in ("masked", "permutation") else None,
        "bos": options.bos,
        "context": options.context if scoring == "causal" else None,
        "generator": options.generator if scoring == "replaced-token" else None,
        "generator_revision": None if planned.generator is None else planned.generator["revision"],
    }


def _outliers(detection: Detection) -> list[dict[str, Any]]:
    return [_plain(outlier.to_dict()) for outlier in detection.outliers]


def _rule_facts(detection: Detection) -> dict[str, Any]:
    """What one rule found; the first of the list decides what is ablated."""
    return {
        "rule": detection.name,
        "description": detection.rule,
        "dims": list(detection.dims),
        "expected_by_chance": detection.by_chance,
        "outliers": _outliers(detection),
        "details": _plain(detection.details),
    }


def _agreement(detections: Sequence[Detection]) -> list[dict[str, Any]]:
    """Every dimension that some rule found, with the rules that did: most rules first."""
    rules = {
        dim: [detection.name for detection in detections if dim in detection.dims]
        for dim in sorted({dim for detection in detections for dim in detection.dims})
    }
    order = sorted(rules, key=lambda dim: -len(rules[dim]))
    return [{"dim": dim, "rules": rules[dim]} for dim in order]


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def to_json(facts: Mapping[str, Any]) -> str:
    """The JSON report: a line for every value, and for every row of numbers."""
    return _indented(facts, "\n") + "\n"


def _indented(value: Any, line: str) -> str:
    """JSON whose lines begin with ``line``."""
    deeper = f"{line}  "
    if isinstance(value, Mapping) and value:
        items = (f"{json.dumps(str(key))}: {_indented(v, deeper)}" for key, v in value.items())
        return f"{{{deeper}{f',{deeper}'.join(items)}{line}}}"
    if isinstance(value, list | tuple) and value and not _is_row(value):
        return f"[{deeper}{f',{deeper}'.join(_indented(v, deeper) for v in value)}{line}]"
    return json.dumps(value, allow_nan=False)


def _is_row(items: Sequence[Any]) -> bool:
    """Whether these are numbers; infinities among them are text."""
    return any(isinstance(item, int | float) for item in items)
