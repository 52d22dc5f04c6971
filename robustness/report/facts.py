"""The facts of a run as plain JSON types: what every report is a view of."""

import json
import math
import platform
from collections.abc import Collection, Iterable, Mapping
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from robustness import __version__
from robustness.checks import Check
from robustness.plan import PlannedCheckpoint, RunPlan
from robustness.verdict import Verdict

SCHEMA = 1
"""Of the JSON report; part of the public interface."""

ACCEPTED = ("pass", "not applicable")
"""Verdicts that do not fail a run."""

PACKAGES = ("torch", "transformers", "tokenizers", "datasets", "numpy", "pytest", "pytest-xdist")


def test_name(label: str, check: Check) -> str:
    """A check's test as pytest names it: ``test_ablation_degrades[bert-dim308]``."""
    return f"{check.test}[{label}-{check.suffix}]" if check.suffix else f"{check.test}[{label}]"


def expected_names(plan: RunPlan) -> set[str]:
    """Names of all tests in the full plan."""
    return {
        test_name(planned.label, check) for planned in plan.checkpoints for check in planned.checks
    }


def check_facts(nodeid: str, label: str, check: Check, verdict: Verdict) -> dict[str, Any]:
    """One decided check."""
    return {
        "id": nodeid,
        "label": label,
        "check": check.test,
        "dims": list(check.dims),
        "ratio": _number(verdict.ratio),
        "interval": None if verdict.interval is None else [_number(x) for x in verdict.interval],
        "threshold": verdict.threshold,
        "text_blocks": verdict.text_blocks,
        "tokens": verdict.tokens,
        "exact": verdict.exact,
        "verdict": verdict.outcome,
        "claim": verdict.claim,
        "reason": verdict.reason,
        "details": _plain(verdict.details),
    }


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


def problems(
    plan: RunPlan, collected: Collection[str], records: Mapping[str, Mapping[str, Any]]
) -> list[str]:
    """Why a run is not a verdict although no test failed: sentences, none if all is well."""
    found = [
        f"{nodeid} was collected but gave no verdict"
        for nodeid in sorted(collected)
        if nodeid not in records
    ]
    accounted = {r["label"] for r in records.values() if r["check"] == "test_outliers_are_present"}
    found += [
        f"{r['id']} is not applicable, but test_outliers_are_present gave no verdict"
        for r in records.values()
        if r["verdict"] == "not applicable" and r["label"] not in accounted
    ]
    if collected:
        seen = {nodeid.split("::")[-1] for nodeid in collected}
        found += [
            f"{planned.label} yielded no check"
            for planned in plan.checkpoints
            if not seen & {test_name(planned.label, check) for check in planned.checks}
        ]
    return found


def hidden_failures(records: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Verdicts that do not pass, in a run that pytest takes for a success (an xfail mark, say)."""
    return [
        f"{nodeid} came to {record['verdict']!r} but was not reported as a failure"
        for nodeid, record in records.items()
        if record["verdict"] not in ACCEPTED
    ]


def run_facts(
    plan: RunPlan,
    records: Mapping[str, Mapping[str, Any]],
    *,
    collected: Collection[str],
    problems: Iterable[str],
    started: datetime,
) -> dict[str, Any]:
    """Everything a run has found out."""
    names = {nodeid.split("::")[-1] for nodeid in collected}
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
        "partial": bool(expected_names(plan) - names),
        "problems": failures,
        "passed": not failures
        and any(checkpoint["checks"] for checkpoint in checkpoints)
        and all(
            check["verdict"] in ACCEPTED
            for checkpoint in checkpoints
            for check in checkpoint["checks"]
        ),
        "checkpoints": checkpoints,
    }


def _checkpoint_facts(
    planned: PlannedCheckpoint, records: Mapping[str, Mapping[str, Any]]
) -> dict[str, Any]:
    by_name = {nodeid.split("::")[-1]: record for nodeid, record in records.items()}
    names = [test_name(planned.label, check) for check in planned.checks]
    checks = [
        {key: value for key, value in by_name[name].items() if key != "label"}
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
        "checks": checks,
    }


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def write_json(file: Path, facts: Mapping[str, Any]) -> None:
    """Write the JSON report, all at once."""
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = file.with_name(f".{file.name}.tmp")
    temporary.write_text(json.dumps(facts, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    temporary.replace(file)
