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
from robustness.reference.baseline import CheckpointBaseline
from robustness.report.parts import (
    Agreement,
    ComparedWith,
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
    from robustness.outliers.outliers import Detection
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
    return CheckResult(
        **_of(verdict, *Verdict.model_fields),
        **_of(check, "check", "dims", "expected_failure"),
        id=nodeid,
        examples=tuple(Example.model_validate(_plain(shown), strict=False) for shown in examples),
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
        **_of(plan, "confidence", "comparisons", "alpha"),
        **_of(ending, "command", "partial", "exit_status"),
        started=ending.started.isoformat(timespec="seconds"),
        duration_s=round(ending.duration_s, 3),
        policy=plan.policy_source,
        compared_with=plan.reference_source,
        problems=tuple(ending.problems),
        passed=whole and ending.exit_status == 0 and any(point.checks for point in checkpoints),
        shard=None if plan.shard is None else Shard.model_validate_json(json.dumps(plan.shard)),
        merged=None,
        checkpoints=checkpoints,
    )


def checkpoint_result(
    planned: "PlannedCheckpoint", results: Mapping[str, CheckResult]
) -> CheckpointResult:
    """Return everything that was found out about one checkpoint; see :func:`collected`."""
    checkpoint, settings, profile = planned.checkpoint, planned.settings, planned.model_profile
    scoring = checkpoint["scoring"]
    result = CheckpointResult(
        **_of(planned, "label", "dtype", "block_size", "corpus", "notes"),
        **_of(settings, "site", "mode", "device", "expectation", "change", "seed", "exhaustive"),
        bos=settings.bos,
        **_of(profile, "stack", "layers", "hidden_size"),
        **{name: checkpoint[name] for name in ("reference", "revision", "architecture", "scoring")},
        ablated_layers=_plain(settings.layers),
        parameters=checkpoint["n_parameters"],
        vocabulary=checkpoint["vocab_size"],
        masking=settings.masking if scoring in ("masked", "permutation") else None,
        context=settings.context if scoring == "causal" else None,
        generator=settings.generator if scoring == "replaced-token" else None,
        generator_revision=None if planned.generator is None else planned.generator["revision"],
        corpus_text_blocks=planned.text_blocks,
        quantity=quantity(scoring).name,
        intact=None,
        rule=profile.detection.rule,
        expected_by_chance=profile.detection.by_chance,
        outliers=_outliers(profile.detection),
        rules=tuple(map(_rule, profile.detections)),
        agreement=tuple(_agreement(profile.detections)),
        sites=None
        if profile.values is None
        else Sites.model_construct(**_of(profile.values, *Sites.model_fields)),
        compared_with=None if planned.reference is None else _compared_with(planned.reference),
        task=None if planned.task is None else _task(planned.task),
        checks=(),
    )
    names = (check.test_name(planned.label) for check in planned.checks)
    return result.with_checks(results[name] for name in names if name in results)


def _compared_with(reference: "PlannedCheckpoint | CheckpointBaseline") -> ComparedWith:
    if isinstance(reference, CheckpointBaseline):
        return ComparedWith.model_validate({**reference.summary(), "saved": True}, strict=False)
    return ComparedWith(
        label=reference.label,
        **{name: reference.checkpoint[name] for name in ("reference", "revision")},
        dims=reference.model_profile.detection.dims,
        saved=False,
    )


def _of(source: object, *names: str) -> dict[str, Any]:
    return {name: getattr(source, name) for name in names}


def _outliers(detection: "Detection") -> tuple[OutlierDimension, ...]:
    return tuple(
        OutlierDimension.model_validate(_plain(outlier.to_dict()), strict=False)
        for outlier in detection.outliers
    )


def _rule(detection: "Detection") -> RuleResult:
    return RuleResult(
        rule=detection.name,
        description=detection.rule,
        dims=detection.dims,
        expected_by_chance=detection.by_chance,
        outliers=_outliers(detection),
        details=_plain(detection.details),
    )


def _agreement(detections: Sequence["Detection"]) -> list[Agreement]:
    """Return every dimension that some rule found, those of most rules first."""
    found = [
        Agreement(dim=dim, rules=tuple(rule.name for rule in detections if dim in rule.dims))
        for dim in sorted({dim for rule in detections for dim in rule.dims})
    ]
    return sorted(found, key=lambda agreement: -len(agreement.rules))


def _task(task: "PlannedTask") -> TaskResult:
    told = _of(task, "name", "reference", "kind", "metric", "examples")
    architecture = task.checkpoint["architecture"]
    return TaskResult(**told, architecture=architecture, score=None, score_examples=0)


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
