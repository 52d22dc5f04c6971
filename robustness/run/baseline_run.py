"""A run and its profiles: the checks a baseline adds, and the profile of what was measured."""

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robustness import __version__
from robustness.ablation.interventions import FixedAblation, Intact, Intervention
from robustness.checks.baseline import MatchesBaseline, flagged
from robustness.checks.registry import CHECKS
from robustness.errors import BaselineError
from robustness.measurement.measure import Measurement
from robustness.reference.baseline import AblationBaseline, Baseline, CheckpointBaseline
from robustness.reference.comparison import difference
from robustness.run.plan import PlannedCheckpoint, RunPlan
from robustness.vetting import Vetting

_OF_THE_CHECKPOINT = ("weights", "config", "tokenizer", "architecture", "device", "versions")
"""Parts of a number's identity in the store that may differ between a checkpoint and its baseline;
everything else must be the same."""


def with_baseline(plan: RunPlan, profile: Baseline, source: Path) -> RunPlan:
    """Return the plan with the checks that compare its checkpoints with a profile from ``source``.

    Raises:
        BaselineError: if a checkpoint has no profile, or one measured under other conditions.
    """
    only = len(plan.checkpoints) == 1
    checkpoints = []
    for planned in plan.checkpoints:
        if MatchesBaseline().limits_in(planned.settings.terms).enabled:
            _require_no_task(planned)
            entry = profile.entry(planned.label, only=only, source=str(source))
            vetting = replace(planned, baseline=entry).vetting(plan.context)
            if differing := difference(entry, conditions(vetting), planned.corpus):
                raise BaselineError(
                    f"{source} cannot be the baseline of {planned.label}: it was measured with "
                    f"{differing}; vet as it was measured, or save a new baseline"
                )
            checks = (*planned.checks, *MatchesBaseline().planned(vetting.plan_context()))
            planned = replace(planned, checks=checks, baseline=entry)
        checkpoints.append(planned)
    return replace(
        plan,
        checkpoints=tuple(checkpoints),
        comparisons=max(1, sum(c.statistical for p in checkpoints for c in p.checks)),
        baseline_source=str(source),
    )


def conditions(vetting: Vetting) -> dict[str, Any]:
    """What must be equal for two checkpoints' numbers to be compared, text block by text block."""
    measurement, settings = vetting.measurement, vetting.settings
    context, rule = measurement.store.context, settings.rule_names[0]
    return {
        **{key: value for key, value in context.items() if key not in _OF_THE_CHECKPOINT},
        "rule": {rule: settings.rules.of(rule)},
        "stack": vetting.model_profile.stack,
        "hidden_size": vetting.model_profile.hidden_size,
        "text_blocks": measurement.scoring_plan.text_blocks_sha256,
    }


def require_keepable(plan: RunPlan) -> None:
    """Raise a BaselineError before a run whose numbers could not be read back after it."""
    for planned in plan.checkpoints:
        _require_no_task(planned)
        vetting = planned.vetting(plan.context)
        conditions(vetting)
        if why := vetting.measurement.store.unwritable:
            raise BaselineError(
                f"a baseline is made of the numbers in the store, which cannot be written: {why}; "
                "name another with --robustness-store"
            )


def _require_no_task(planned: PlannedCheckpoint) -> None:
    if planned.task is not None:
        raise BaselineError(
            f"{planned.label} is vetted through the task {planned.task.name}, and a baseline holds "
            "perplexities and no task's answers: compare with a baseline and vet through a task "
            "in two runs, or set checks.matches_baseline.enabled = false"
        )


def baseline_of(plan: RunPlan) -> Baseline:
    """Return the profile of a run's checkpoints, from the store; nothing is measured or loaded."""
    return Baseline(
        robustness=__version__,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        checkpoints=tuple(_entry(planned, plan) for planned in plan.checkpoints),
    )


def _entry(planned: PlannedCheckpoint, plan: RunPlan) -> CheckpointBaseline:
    vetting = planned.vetting(plan.context)
    measurement, checkpoint = vetting.measurement, planned.checkpoint
    context = measurement.store.context
    nll, tokens = _stored(measurement, Intact(), planned.label)
    ablations: dict[tuple[int, ...], AblationBaseline] = {}
    for check in planned.checks:
        kept = CHECKS[check.check].in_baseline and check.not_applicable is None
        if kept and check.dims not in ablations:
            ablation = vetting.ablate(check.dims).ablation
            ablated, _ = _stored(measurement, FixedAblation(ablation=ablation), planned.label)
            ablations[check.dims] = AblationBaseline(
                name=check.suffix,
                ablation=ablation.to_dict(),
                nll_nats=tuple(ablated[: len(nll)].tolist()),
            )
    return CheckpointBaseline(
        label=planned.label,
        reference=checkpoint["reference"],
        revision=checkpoint["revision"],
        architecture=checkpoint["architecture"],
        corpus=planned.corpus,
        text_blocks=planned.text_blocks,
        layers=planned.model_profile.layers,
        hidden_size=planned.model_profile.hidden_size,
        conditions=conditions(vetting),
        provenance={key: context[key] for key in _OF_THE_CHECKPOINT},
        outliers=flagged(planned.model_profile.detection),
        tokens=tuple(tokens.tolist()),
        nll_nats=tuple(nll.tolist()),
        ablations=tuple(ablations.values()),
    )


def _stored(
    measurement: Measurement, intervention: Intervention, label: str
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """NLLs and tokens of the chunks measured so far, from the first one on."""
    chunks = []
    for index in range(measurement.n_chunks):
        chunk = measurement.stored(index, intervention)
        if chunk is None:
            break
        chunks.append(chunk)
    if not chunks:
        why = measurement.store.unwritable or f"nothing of it is in {measurement.store.folder}"
        raise BaselineError(f"the numbers of {label} could not be read back from the store: {why}")
    return (
        np.concatenate([chunk.nll_nats for chunk in chunks]),
        np.concatenate([chunk.tokens for chunk in chunks]),
    )
