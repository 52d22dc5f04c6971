"""The facts of a run as plain JSON types: what every report is a view of."""

import json
import math
import platform
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from robustness import __version__
from robustness.baseline import CheckpointProfile
from robustness.checks import Check
from robustness.plan import PlannedCheckpoint, RunPlan
from robustness.verdict import Verdict

SCHEMA = 1
"""Of the JSON report; part of the public interface."""

ACCEPTED = ("pass", "not applicable")
"""Verdicts that do not fail a run."""

PACKAGES = ("torch", "transformers", "tokenizers", "datasets", "numpy", "pytest", "pytest-xdist")


def check_facts(nodeid: str, label: str, check: Check, verdict: Verdict) -> dict[str, Any]:
    """One decided check; ``label`` and ``name`` say which one of the plan."""
    return {
        "id": nodeid,
        "label": label,
        "name": check.test_name(label),
        "check": check.test,
        "dims": list(check.dims),
        "ratio": _number(verdict.ratio),
        "interval": None if verdict.interval is None else [_number(x) for x in verdict.interval],
        "threshold": verdict.threshold,
        "passes": verdict.passes,
        "text_blocks": verdict.text_blocks,
        "tokens": verdict.tokens,
        "exact": verdict.exact,
        "verdict": verdict.outcome,
        "expected_failure": check.expected_failure and check.expected_failure.to_dict(),
        "claim": verdict.claim,
        "reason": verdict.reason,
        "details": _plain(verdict.details),
    }


def is_accepted(record: Mapping[str, Any]) -> bool:
    """Whether a decided check lets a run pass: also one that fails as the policy expects."""
    expected = record.get("expected_failure")
    if record["verdict"] == "fail" and expected is not None:
        return not expected["expired"]
    return record["verdict"] in ACCEPTED


def _plain(value: Any) -> Any:
    """JSON types, infinities as text."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return _number(value) if isinstance(value, float) else value


def _number(value: float | None) -> float | str | None:
    if value is None or math.isfinite(value):
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
) -> dict[str, Any]:
    """Everything a run has found out.

    Args:
        plan: what was planned.
        records: what :func:`check_facts` made, per test id.
        partial: whether planned checks were left out.
        problems: why the run is no verdict although no test failed.
        exit_status: of the session; tests that have nothing to do with vetting count, too.
        started: when the run started.
    """
    checkpoints = [_checkpoint_facts(planned, records) for planned in plan.checkpoints]
    failures = list(problems)
    return {
        "schema": SCHEMA,
        "robustness": __version__,
        "versions": _versions(),
        "started": started.isoformat(timespec="seconds"),
        "duration_s": round((datetime.now(UTC) - started).total_seconds(), 3),
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
        {key: value for key, value in by_name[name].items() if key not in ("label", "name")}
        for name in names
        if name in by_name
    ]
    checkpoint, settings, examination = planned.checkpoint, planned.settings, planned.examination
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
        "layers": examination.layers,
        "hidden_size": examination.hidden_size,
        "parameters": checkpoint["n_parameters"],
        "vocabulary": checkpoint["vocab_size"],
        "scoring": checkpoint["scoring"],
        "dtype": "float32",
        "device": settings.device,
        "profile": settings.profile,
        "seed": settings.seed,
        "block_size": planned.block_size,
        "exhaustive": settings.exhaustive,
        "corpus": planned.corpus,
        "corpus_text_blocks": planned.text_blocks,
        "notes": list(planned.notes),
        "perplexity": widest.get("intact_perplexity"),
        "perplexity_text_blocks": widest.get("intact_text_blocks", 0),
        "perplexity_tokens": widest.get("intact_tokens", 0),
        "rule": examination.detection.rule,
        "expected_by_chance": examination.detection.by_chance,
        "outliers": [outlier.to_dict() for outlier in examination.detection.outliers],
        "baseline": _baseline_facts(planned.baseline),
        "checks": checks,
    }


def _baseline_facts(profile: CheckpointProfile | None) -> dict[str, Any] | None:
    """What a checkpoint was compared with."""
    if profile is None:
        return None
    return {
        "label": profile.label,
        "reference": profile.reference,
        "revision": profile.revision,
        "text_blocks": profile.held,
        "perplexity": profile.perplexity,
        "dims": list(profile.dims),
    }


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def to_json(facts: Mapping[str, Any]) -> str:
    """The JSON report."""
    return json.dumps(facts, indent=2, allow_nan=False) + "\n"
