"""What the terminal shows before a run: what is vetted and how, and what that would cost."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from robustness.reference.baseline import CheckpointBaseline
from robustness.report.words import amount, listed, wrapped

if TYPE_CHECKING:
    from robustness.policy.settings import Settings
    from robustness.run.plan import PlannedCheckpoint, RunPlan


def header(plan: "RunPlan") -> list[str]:
    """Say what is vetted and how, in one paragraph per checkpoint."""
    lines = [
        f"robustness: {plan.comparisons} comparisons, together right with confidence "
        f"{plan.confidence:g} (alpha = {plan.alpha:.3g} each); policy: "
        f"{plan.policy_source or 'defaults'}; store: {plan.store_root}"
    ]
    if plan.shard is not None:
        lines.append(
            f"robustness: shard {plan.shard['index']}/{plan.shard['count']} with "
            f"{len(plan.shard['expected'])} of {sum(map(len, plan.shard['all'].values()))} checks; "
            "'robustness merge' gives the verdict"
        )
    for planned in plan.checkpoints:
        lines += _checkpoint_header(planned)
    return [part for line in lines for part in wrapped(line)]


def plan_lines(plan: "RunPlan", described: Mapping[str, Sequence[str]]) -> list[str]:
    """Say what would run and what it would cost, for ``--robustness-plan``."""
    lines = header(plan)
    for label, parts in described.items():
        lines += ["", f"{label}:", *(line for part in parts for line in wrapped(f"  {part}"))]
    return [*lines, "", "robustness: a plan only, nothing was measured"]


def partial(left_out: int, planned: int) -> list[str]:
    """Return the line on a selection, if there was one."""
    if not left_out:
        return []
    return [
        f"robustness: PARTIAL, {left_out} of {planned} planned checks are left out; this run will "
        "be no release verdict"
    ]


def _checkpoint_header(planned: "PlannedCheckpoint") -> list[str]:
    checkpoint, settings, profile = planned.checkpoint, planned.settings, planned.model_profile
    reference, reduced = planned.reference, planned.dtype != "float32"
    size = f"{profile.layers} layers x {profile.hidden_size}"
    if profile.stack != "only":
        size += f" in the {profile.stack}, which is vetted"
    lines = [
        f"{planned.label}: {checkpoint['reference']} at {checkpoint['revision']}",
        f"  {checkpoint['architecture']}, {size}, {amount(checkpoint['n_parameters'])} parameters, "
        f"float32{f' and, where that suffices, {planned.dtype}' if reduced else ''} on "
        f"{settings.device}",
        f"  {_measured_on(planned)}, seed {settings.seed}, expectation {settings.expectation}"
        + (", exhaustive" if settings.exhaustive else ""),
    ]
    if where := settings.ablation((0,)).where:  # not as by default
        lines.append(f"  ablations{where}")
    lines += [f"  {detection.rule}: {listed(detection.dims)}" for detection in profile.detections]
    if isinstance(reference, CheckpointBaseline):
        lines.append(
            f"  reference, saved: {reference.reference} at {reference.revision}, {reference.held} "
            f"of {reference.text_blocks} text blocks{_changed(settings)}"
        )
    elif reference is not None:
        named = reference.checkpoint
        lines.append(
            f"  reference: {named['reference']} at {named['revision']}, {named['architecture']}"
            f"{_changed(settings)}"
        )
    return lines + [f"  note: {note}" for note in planned.notes]


def _changed(settings: "Settings") -> str:
    if settings.change == "conversion":
        return ""
    return f"; change: {settings.change}, so judge it on a text that it was not trained on"


def _measured_on(planned: "PlannedCheckpoint") -> str:
    parts = []
    if planned.has_perplexity:
        parts.append(
            f"corpus {planned.corpus}: {planned.text_blocks} text blocks of at most "
            f"{planned.block_size} tokens; {planned.checkpoint['scoring']} scoring"
            f"{planned.settings.scoring_options.deviations()}"
        )
    if (task := planned.task) is not None:
        same = task.checkpoint["architecture"] == planned.checkpoint["architecture"]
        where = "" if same else f", as {task.checkpoint['architecture']}"
        parts.append(
            f"task {task.name}: {task.examples} examples of {task.kind}, {task.metric}{where}"
        )
    return "; ".join(parts)
