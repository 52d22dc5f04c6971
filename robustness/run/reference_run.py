"""A run and its references: whether they can be compared, and the profile of what was measured."""

from collections.abc import Collection
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robustness import __version__
from robustness.ablation.interventions import FixedAblation, Intact, Intervention
from robustness.checks.registry import CHECKS
from robustness.errors import BaselineError
from robustness.measurement.measure import Measurement
from robustness.reference.baseline import AblationBaseline, Baseline, CheckpointBaseline
from robustness.reference.comparable import require_same_text
from robustness.reference.comparison import difference
from robustness.reference.reference import flagged
from robustness.reference.vocabulary import require_same_vocabulary
from robustness.run.plan import PlannedCheckpoint, RunPlan
from robustness.vetting import Vetting

SAME = (
    "it is the reference itself: the same weights, settings and tokenizer, so nothing is compared"
)

_OF_THE_CHECKPOINT = ("weights", "config", "tokenizer", "architecture", "device", "versions")
"""Parts of a number's identity in the store that may differ between a checkpoint and its baseline;
everything else must be the same."""


@dataclass(frozen=True, kw_only=True)
class SavedProfiles:
    """Profiles, and the file that they were read from."""

    baseline: Baseline
    source: Path


def beside(
    planned: PlannedCheckpoint,
    vetting: Vetting,
    reference: PlannedCheckpoint,
    other: Vetting,
) -> PlannedCheckpoint:
    """The candidate with the checkpoint that it is compared with.

    Raises:
        BaselineError: if they cannot be compared, text block by text block.
    """
    who = f"{planned.label} and its reference {reference.label} cannot be compared"
    if planned.has_perplexity != reference.has_perplexity:
        without = reference if planned.has_perplexity else planned
        raise BaselineError(f"{who}: {without.label} has no language-model head")
    vetting.compared_with = other
    require_same_vocabulary(vetting.checkpoint, other.checkpoint, vetting.context)
    if planned.has_perplexity:
        require_same_text(vetting.measurement, other.measurement)
    classes = {task.classes for task in (planned.task, reference.task) if task is not None}
    if len(classes) > 1:
        raise BaselineError(f"{who}: they number the classes of the task differently")
    if broken := other.non_finite_tensors():
        raise BaselineError(
            f"the reference {reference.label} is broken itself: {broken[0]} holds numbers that are "
            "not finite; name another reference"
        )
    same = vetting.reference_numbers.is_candidate
    notes = (SAME, *planned.notes) if same else planned.notes
    return replace(planned, reference=reference, notes=notes)


def beside_saved(
    planned: PlannedCheckpoint, vetting: Vetting, profiles: SavedProfiles
) -> PlannedCheckpoint:
    """The candidate with the saved profile that it is compared with.

    Raises:
        BaselineError: if there is none of it, or one measured under other conditions.
    """
    source = str(profiles.source)
    entry = profiles.baseline.entry(planned.label, source=source)
    cannot = f"{source} cannot be the reference of {planned.label}"
    sanity = {name for name, check in CHECKS.items() if check.is_sanity}
    if broken := sanity.intersection(entry.failed):
        raise BaselineError(
            f"{cannot}: the checkpoint that it was saved of is broken itself "
            f"({min(broken).replace('_', ' ')} failed)"
        )
    if not planned.has_perplexity:
        raise BaselineError(f"{cannot}: it holds perplexities, and {planned.label} has none")
    if differing := difference(entry, conditions(vetting), planned.corpus):
        raise BaselineError(
            f"{cannot}: it was measured with {differing}; vet as it was measured, or save a new "
            "profile"
        )
    if entry.text_blocks != planned.text_blocks:
        raise BaselineError(
            f"{cannot}: it says that the same corpus has {entry.text_blocks} text blocks, here "
            f"{planned.text_blocks}; save a new profile"
        )
    vetting.compared_with = entry
    notes = planned.notes
    if entry.failed:
        names = ", ".join(name.replace("_", " ") for name in entry.failed)
        notes = (f"what its reference was saved of did not pass everything: {names}", *notes)
    return replace(planned, reference=entry, notes=notes)


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
        if not planned.has_perplexity:
            raise BaselineError(
                f"{planned.label} has no perplexity, and a profile is made of perplexities"
            )
        vetting = planned.vetting(plan.context)
        conditions(vetting)
        if why := vetting.measurement.store.unwritable:
            raise BaselineError(
                f"a baseline is made of the numbers in the store, which cannot be written: {why}; "
                "name another with --robustness-store"
            )


def baseline_of(plan: RunPlan, failed: Collection[str] = ()) -> Baseline:
    """Return the profile of a run's checkpoints, from the store; nothing is measured or loaded.

    ``failed`` are names of tests that did not pass: a profile says so of itself.
    """
    return Baseline(
        robustness=__version__,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        checkpoints=tuple(_entry(planned, plan, failed) for planned in plan.checkpoints),
    )


def _entry(
    planned: PlannedCheckpoint, plan: RunPlan, failed: Collection[str]
) -> CheckpointBaseline:
    vetting = planned.vetting(plan.context)
    measurement, checkpoint = vetting.measurement, planned.checkpoint
    context = measurement.store.context
    nll, tokens = _stored(measurement, Intact(), planned.label)
    ablations: dict[tuple[int, ...], AblationBaseline] = {}
    for check in planned.checks:
        kept = CHECKS[check.check].in_baseline and check.comparisons
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
        **{name: checkpoint[name] for name in ("reference", "revision", "architecture")},
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
        failed=tuple(
            dict.fromkeys(
                check.check for check in planned.checks if check.test_name(planned.label) in failed
            )
        ),
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
