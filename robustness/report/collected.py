"""The report of a run, collected from its plan and the checks that were decided."""

import json
import math
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

import numpy as np

from robustness import __version__
from robustness.report.parts import (
    Agreement,
    BaselineProfile,
    Example,
    OutlierDimension,
    RuleResult,
    Sites,
    TaskResult,
)
from robustness.report.results import SCHEMA, CheckpointResult, CheckResult, Report, Shard
from robustness.scoring.quantity import quantity
from robustness.statistics.verdict import Verdict

if TYPE_CHECKING:
    from robustness.checks.planned import PlannedCheck
    from robustness.measurement.planned_task import PlannedTask
    from robustness.outliers.model_profile import ModelProfile
    from robustness.outliers.outliers import Detection, Outlier
    from robustness.outliers.site_values import SiteValues
    from robustness.run.plan import PlannedCheckpoint, RunPlan

PACKAGES = ("torch", "transformers", "tokenizers", "datasets", "numpy", "pytest", "pytest-xdist")


@dataclass(frozen=True, kw_only=True)
class Ending:
    """How a session came to its end."""

    partial: bool  # whether planned checks were left out
    problems: Sequence[str]  # why the run is no verdict although no test failed
    exit_status: int  # of the session
    started: datetime  # when the run started, by the clock on the wall
    duration_s: float  # how long it took, by a clock that nobody sets back
    command: str | None = None  # what the user typed


def check_result(
    nodeid: str,
    check: "PlannedCheck",
    verdict: Verdict,
    *,
    examples: Sequence[Mapping[str, Any]] = (),
) -> CheckResult:
    """Return what one test decided, with the examples that were measured to show it."""
    fields = {name: getattr(verdict, name) for name in Verdict.model_fields}
    return CheckResult(
        **fields,
        id=nodeid,
        check=check.check,
        dims=check.dims,
        expected_failure=check.expected_failure,
        examples=tuple(Example.model_validate(_plain(each), strict=False) for each in examples),
    )


def collected(plan: "RunPlan", results: Mapping[str, CheckResult], ending: Ending) -> Report:
    """Return everything that a run found out.

    ``results`` holds the decided checks by the name that their test has in the plan.
    """
    checkpoints = tuple(checkpoint_result(planned, results) for planned in plan.checkpoints)
    whole = plan.shard is None and not ending.partial and not ending.problems
    return Report(
        schema=SCHEMA,
        robustness=__version__,
        versions=_versions(),
        command=ending.command,
        started=ending.started.isoformat(timespec="seconds"),
        duration_s=round(ending.duration_s, 3),
        confidence=plan.confidence,
        comparisons=plan.comparisons,
        alpha=plan.alpha,
        policy=plan.policy_source,
        baseline=plan.baseline_source,
        partial=ending.partial,
        problems=tuple(ending.problems),
        exit_status=ending.exit_status,
        passed=whole and ending.exit_status == 0 and any(point.checks for point in checkpoints),
        shard=None if plan.shard is None else Shard.model_validate_json(json.dumps(plan.shard)),
        merged=None,
        checkpoints=checkpoints,
    )


def checkpoint_result(
    planned: "PlannedCheckpoint", results: Mapping[str, CheckResult]
) -> CheckpointResult:
    """Return everything that was found out about one checkpoint; see :func:`collected`."""
    baseline = planned.baseline
    result = CheckpointResult(
        label=planned.label,
        **_model(planned),
        **_scoring_options(planned),
        **_outlier_results(planned.model_profile),
        block_size=planned.block_size,
        corpus=planned.corpus,
        corpus_text_blocks=planned.text_blocks,
        notes=tuple(planned.notes),
        quantity=quantity(planned.checkpoint["scoring"]).name,
        intact=None,
        baseline=None
        if baseline is None
        else BaselineProfile.model_validate(baseline.summary(), strict=False),
        task=None if planned.task is None else _task(planned.task),
        checks=(),
    )
    names = (check.test_name(planned.label) for check in planned.checks)
    return result.with_checks(results[name] for name in names if name in results)


def _model(planned: "PlannedCheckpoint") -> dict[str, Any]:
    checkpoint, settings, profile = planned.checkpoint, planned.settings, planned.model_profile
    return {
        "reference": checkpoint["reference"],
        "revision": checkpoint["revision"],
        "architecture": checkpoint["architecture"],
        "stack": profile.stack,
        "site": settings.site,
        "mode": settings.mode,
        "ablated_layers": _plain(settings.layers),
        "layers": profile.layers,
        "hidden_size": profile.hidden_size,
        "parameters": checkpoint["n_parameters"],
        "vocabulary": checkpoint["vocab_size"],
        "scoring": checkpoint["scoring"],
        "dtype": planned.dtype,
        "device": settings.device,
        "expectation": settings.expectation,
        "seed": settings.seed,
        "exhaustive": settings.exhaustive,
    }


def _outlier_results(profile: "ModelProfile") -> dict[str, Any]:
    return {
        "rule": profile.detection.rule,
        "expected_by_chance": profile.detection.by_chance,
        "outliers": _outliers(profile.detection),
        "rules": tuple(map(_rule, profile.detections)),
        "agreement": _agreement(profile.detections),
        "sites": None if profile.values is None else _sites(profile.values),
    }


def _scoring_options(planned: "PlannedCheckpoint") -> dict[str, Any]:
    """Return the settings that the scoring depends on, and ``None`` for the others."""
    scoring, options = planned.checkpoint["scoring"], planned.settings.scoring_options
    return {
        "masking": options.masking if scoring in ("masked", "permutation") else None,
        "bos": options.bos,
        "context": options.context if scoring == "causal" else None,
        "generator": options.generator if scoring == "replaced-token" else None,
        "generator_revision": None if planned.generator is None else planned.generator["revision"],
    }


def _outlier(outlier: "Outlier") -> OutlierDimension:
    return OutlierDimension.model_validate(_plain(outlier.to_dict()), strict=False)


def _outliers(detection: "Detection") -> tuple[OutlierDimension, ...]:
    return tuple(map(_outlier, detection.outliers))


def _rule(detection: "Detection") -> RuleResult:
    return RuleResult(
        rule=detection.name,
        description=detection.rule,
        dims=detection.dims,
        expected_by_chance=detection.by_chance,
        outliers=_outliers(detection),
        details=_plain(detection.details),
    )


def _agreement(detections: Sequence["Detection"]) -> tuple[Agreement, ...]:
    rules = {
        dim: tuple(detection.name for detection in detections if dim in detection.dims)
        for dim in sorted({dim for detection in detections for dim in detection.dims})
    }
    order = sorted(rules, key=lambda dim: -len(rules[dim]))
    return tuple(Agreement(dim=dim, rules=rules[dim]) for dim in order)


def _sites(values: "SiteValues") -> Sites:
    """Return what was found without checking every one of its many numbers."""
    return Sites.model_construct(**{name: getattr(values, name) for name in Sites.model_fields})


def _task(task: "PlannedTask") -> TaskResult:
    return TaskResult(
        name=task.name,
        reference=task.reference,
        kind=task.kind,
        metric=task.metric,
        architecture=task.checkpoint["architecture"],
        examples=task.examples,
        score=None,
        score_examples=0,
    )


def _plain(value: Any) -> Any:
    """Return JSON types, whatever numpy has made of them; infinities and NaN become text."""
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value


def _versions() -> dict[str, str]:
    versions = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    return versions
